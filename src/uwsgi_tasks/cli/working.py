"""Working: worker."""

from __future__ import annotations

from typing import Any

import click

from ..config import check
from ..worker import WorkerOptions, run_worker
from .base import Command, Where, pass_where
from .parameters import AGE


class _Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes: a number, or a text such as ``200M``."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return bytes."""
        try:
            size: int = check({"max_rss": value}, "--max-rss")["max_rss"]
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return size


class _Queue(click.ParamType):  # type: ignore[type-arg]
    """A queue with the number of its own processes: ``mail=2``, or ``mail`` for one."""

    name = "queue"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        """Return name and number."""
        if isinstance(value, tuple):
            return value
        name, _, number = value.partition("=")
        if not name or not (number or "1").isdigit() or int(number or 1) < 1:
            self.fail(f"{value!r}: write NAME or NAME=PROCESSES, like mail=2", param, ctx)
        return name, int(number or 1)


@click.command(
    "worker",
    cls=Command,
    examples=(
        "worker shop.tasks",
        "worker shop.tasks --processes 4 --queue mail=2",
        "worker shop.tasks --reload  # in development",
        "worker shop.tasks --once  # run what is ready, and end: for cron",
    ),
    see_also="status, drain",
)
@click.argument("targets", metavar="TARGET…", nargs=-1)
@click.option("-p", "--processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--mules", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--queue",
    "queues",
    type=_Queue(),
    multiple=True,
    metavar="NAME[=N]",
    help="Give a queue a spool and N processes of its own; may be repeated.",
)
@click.option("--max-tasks", type=click.IntRange(1), help="A process ends after so many tasks.")
@click.option("--max-rss", type=_Size(), metavar="SIZE", help="… with more memory, like 200M.")
@click.option(
    "--grace",
    type=AGE,
    default=30.0,
    metavar="AGE",
    help="Tasks get so long to end before a stop.  [default: 30s]",
)
@click.option("--reload", is_flag=True, help="Watch the source files, and reload.")
@click.option("--once", is_flag=True, help="Run what is ready, and end.")
@pass_where
def worker_command(where: Where, /, targets: tuple[str, ...], **given: Any) -> int:
    """Run tasks beside any web server: an embedded uWSGI without HTTP, until it is told to end.

    TARGET is what has the tasks: a module, MODULE:FUNCTION (called, as an application factory is),
    or a .py file. None is needed where DJANGO_SETTINGS_MODULE names a Django project. SIGTERM and
    SIGINT let running tasks end first; what waits is kept in the home.
    """
    options = WorkerOptions(
        targets,
        home=where.asked or None,
        quiet=where.quiet,
        verbose=where.verbose > 0,
        **given,
    )
    return run_worker(options)
