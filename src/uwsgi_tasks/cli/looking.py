"""Looking: status, list, show."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from .. import observe
from .base import OK, Command, Where, fail, pass_where
from .output import ago, as_json, brief, duration, facts, many, moment, table
from .parameters import AGE, json_option

COLUMNS = ("id", "state", "task", "queue", "attempt", "called", "took", "reason")


@click.command(
    "status",
    cls=Command,
    examples=("status", "status --json  # for a script"),
    see_also="top, list, check",
)
@json_option
@pass_where
def status_command(where: Where, as_json_: bool) -> None:
    """Show how things stand: server up or down, tasks waiting, running, finished, dead."""
    where.home()
    status, record, is_up = observe.status(), where.record(), where.is_up()
    if as_json_:
        as_json({**status._asdict(), "server_up": is_up, "server": record})
        return
    finished = ", ".join(f"{number} {state}" for state, number in status.finished.items())
    since = f" since {moment(status.history_from)}" if status.history_from else ""
    facts(
        [
            ("home", status.home),
            ("server", _server(record, is_up)),
            ("tasks are taken", "no: paused; see uwsgi-tasks resume" if status.paused else "yes"),
            ("queued", status.queued),
            ("scheduled", status.scheduled),
            ("running", status.running),
            ("finished", finished + since),
            ("dead letters", status.dead_letters),
            *[(name.replace("_", " "), n) for name, n in status.counters.items() if n],
        ]
    )


def _server(record: Any, is_up: bool) -> str:
    if not is_up:
        return "down: calls wait until it starts"
    if record is None:
        return "up"
    return (
        f"up since {moment(record.started_on)}, {many(record.spoolers, 'spooler')},"
        f" {many(record.mules, 'mule')}, {many(record.workers, 'worker')},"
        f" pid {record.master} on {record.host}"
    )


@click.command(
    "list",
    cls=Command,
    examples=(
        "list",
        "list --state running",
        "list --task shop.tasks.send_mail --since 2h --json",
    ),
    see_also="show, status, dead list",
)
@click.option("--state", type=click.Choice(observe.STATES), help="Only those in this state.")
@click.option("--task", metavar="NAME", help="Only those of this task.")
@click.option("--queue", metavar="NAME", help="Only those of this queue.")
@click.option(
    "--since", type=AGE, metavar="AGE", help="Called or finished since, like 90s, 2h, 7d."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@json_option
@pass_where
def list_command(
    where: Where,
    state: str | None,
    task: str | None,
    queue: str | None,
    since: float | None,
    limit: int,
    as_json_: bool,
) -> None:
    """List tasks: those that run, then those that wait, then the finished, the latest first."""
    where.home()
    moment_ = None if since is None else time.time() - since
    runs = observe.runs(state, task, queue, moment_, limit)
    if as_json_:
        as_json(runs)
    else:
        table(COLUMNS, [row(run) for run in runs], wide=("queue", "attempt", "called"))


def row(run: observe.RunInfo) -> tuple[Any, ...]:
    """Return what a line of the list shows of a run."""
    reason = run.reason or run.error
    if run.due_at and run.state == "scheduled":
        reason = f"due {ago(run.due_at)}"
    return (
        run.id,
        run.state,
        run.task,
        run.queue,
        run.attempt,
        brief(run.created_at),
        took(run),
        reason,
    )


def took(run: observe.RunInfo) -> str:
    """Return how long a run took, or takes so far."""
    if not run.started_at:
        return ""
    end = time.time() if run.state == "running" else run.finished_at or run.started_at
    return duration(max(0.0, end - run.started_at))


@click.command(
    "show",
    cls=Command,
    examples=(
        "show 1764043200123456789-0123456789abcdef",
        "show 1764043200123456789-0123456789abcdef --arguments",
    ),
    see_also="list, watch, retry",
)
@click.argument("id_", metavar="ID")
@click.option(
    "--arguments",
    is_flag=True,
    help="Show the arguments: they are loaded, which runs code of their classes.",
)
@json_option
@pass_where
def show_command(where: Where, id_: str, arguments: bool, as_json_: bool) -> int:
    """Show all that is known of one task: its state and why, its attempts, traceback and logs.

    Arguments may be secrets, so that they are only shown when asked for, and kept only as long as
    the task can run.
    """
    where.home()
    if arguments and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        run = observe.run(id_, arguments=arguments)
    except KeyError as error:
        fail(error.args[0], "uwsgi-tasks list, for those that are known")
    if as_json_:
        as_json(run)
    else:
        _show(run)
    return OK


def _show(run: observe.RunInfo) -> None:
    facts(
        [
            ("id", run.id),
            ("task", run.task or "?"),
            ("state", run.state),
            ("reason", run.reason),
            ("error", run.error),
            ("arguments", run.arguments),
            ("queue", run.queue),
            ("executor", run.executor),
            ("priority", run.priority),
            ("spool", run.spool),
            ("result", "stored" if run.has_result else ""),
            ("progress", progress_text(run)),
        ]
    )
    click.echo("\nTimeline")
    for stamp, words in _timeline(run):
        click.echo(f"  {moment(stamp, exact=True)}  {words}")
    if run.traceback:
        click.echo(f"\nTraceback\n{run.traceback.rstrip()}")
    if run.logs:
        click.echo("\nLast lines of its log")
        click.echo("\n".join(f"  {line}" for line in run.logs))


def _timeline(run: observe.RunInfo) -> list[tuple[float, str]]:
    steps = [(run.created_at, "called")] if run.created_at else []
    for number, started, finished, pid, error in run.attempts:
        words = f"attempt {number} in process {pid} began"
        steps.append((started, words))
        ended = f"attempt {number} ended after {duration(max(0.0, finished - started))}"
        steps.append((finished, f"{ended}: {error}" if error else ended))
    started_ats = [attempt.started_at for attempt in run.attempts]
    if run.started_at and run.started_at not in started_ats:
        steps.append((run.started_at, f"attempt {run.attempt} in process {run.pid} began"))
    if run.due_at and not run.finished_at:
        steps.append((run.due_at, "due"))
    if run.finished_at:
        steps.append((run.finished_at, f"{run.state}" + (f": {run.reason}" if run.reason else "")))
    return sorted(steps, key=lambda step: step[0])


def progress_text(run: observe.RunInfo) -> str:
    """Return how far a run is, in words; empty where it doesn't tell."""
    told = run.progress
    if told is None:
        return ""
    text = f"{told.done:g}" + (f" of {told.total:g}" if told.total else "")
    if told.rate:
        text += f", {told.rate:.3g}/s"
    if told.left_s is not None and run.state == "running":
        text += f", {duration(told.left_s)} left"
    return f"{text}  {told.message}".rstrip()
