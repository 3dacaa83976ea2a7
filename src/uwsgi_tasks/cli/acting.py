"""Acting: call, retry, cancel, purge, pause, resume, drain, reload."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from .. import calls, control, dead, engine, observe
from ..errors import NotAvailable, UwsgiTasksError
from ..model import DEFAULT_QUEUE, Message, Placement, TaskExecutor, new_id
from .base import FOUND, OK, Command, Where, fail, pass_where
from .live import follow
from .output import as_json, many, plain
from .parameters import AGE, MOMENT, Json, json_option, yes_option


@click.command(
    "call",
    cls=Command,
    examples=(
        "call shop.tasks.send_mail --args '[\"ada@example.com\"]'",
        "call shop.tasks.report --kwargs '{\"year\": 2026}' --at 2026-12-31T18:00",
        "call shop.tasks.sweep --delay 15m --priority 5 --queue night",
        "call shop.tasks.sweep --wait  # exit code 0 if it ends ok",
    ),
    see_also="watch, show, cancel",
)
@click.argument("task")
@click.option("--args", "args_", type=Json(list), default="[]", metavar="JSON", help="A list.")
@click.option("--kwargs", type=Json(dict), default="{}", metavar="JSON", help="An object.")
@click.option("--at", type=MOMENT, metavar="MOMENT", help="Not before, like 2026-12-31T18:00.")
@click.option("--delay", type=AGE, metavar="AGE", help="Not before so long from now, like 15m.")
@click.option("--priority", type=float, help="Smaller runs sooner; none counts as 100.")
@click.option("--queue", default=DEFAULT_QUEUE, metavar="NAME", help="Label of its queue.")
@click.option("--wait", is_flag=True, help="Follow it to its end.")
@click.option("--timeout", type=AGE, metavar="AGE", help="With --wait: give up after so long.")
@json_option
@pass_where
def call_command(
    where: Where,
    task: str,
    args_: list[Any],
    kwargs: dict[str, Any],
    at: Any,
    delay: float | None,
    priority: float | None,
    queue: str,
    wait: bool,
    timeout: float | None,
    as_json_: bool,
) -> int:
    """Call a task: its id is shown at once, and a spooler of the server runs it.

    TASK is the name under which it is registered, mostly MODULE.FUNCTION; the server finds it, it
    needn't be importable here. Its retries and limits are those of its decorator.
    """
    where.home()
    if at is not None and delay is not None:
        raise click.UsageError("--at and --delay exclude each other")
    due = time.time() + delay if delay else getattr(at, "timestamp", lambda: at or 0.0)()
    ident = _submit(task, args_, kwargs, due, priority, queue)
    if not wait:
        as_json({"id": ident}) if as_json_ else click.echo(ident)
        return OK
    if not as_json_:
        click.echo(ident)
    run = follow(ident, timeout, 0.5, shows=not as_json_ and not where.quiet)
    if as_json_:
        as_json(run)
    return OK if run.state == "ok" else FOUND


def _submit(
    task: str, args: list[Any], kwargs: dict[str, Any], due: float, priority: Any, queue: str
) -> str:
    this, ident = engine.current(), new_id()
    serializer = this.settings.serializer
    if not this.spools():
        raise NotAvailable("the server of this home has no spooler, so that nothing can be queued")
    payload = calls.payload_of(task, tuple(args), kwargs, serializer)
    message = Message(
        ident, task, payload, serializer, time.time(), ident, due, priority, queue or DEFAULT_QUEUE
    )
    this.submit(message, Placement(TaskExecutor.SPOOLER, strict=True))
    return ident


@click.command(
    "retry",
    cls=Command,
    examples=("retry 1764043200123456789-0123456789abcdef",),
    see_also="dead retry, dead list, show",
)
@click.argument("ids", metavar="ID…", nargs=-1, required=True)
@json_option
@pass_where
def retry_command(where: Where, ids: tuple[str, ...], as_json_: bool) -> int:
    """Run dead tasks again, with their arguments, id, and all executions anew."""
    where.home()
    return for_each(ids, dead.retry, "is queued again", as_json_)


def for_each(idents: tuple[str, ...], act: Any, done: str, as_json_: bool) -> int:
    """Do something with each id; tell of each how it went, and return the exit code."""
    told = []
    for ident in idents:
        try:
            result = act(ident)
            told.append((ident, result is not False, done))
        except (KeyError, ValueError, UwsgiTasksError) as error:
            told.append((ident, False, str(error.args[0] if error.args else error)))
    if as_json_:
        as_json([{"id": ident, "ok": ok, "message": words} for ident, ok, words in told])
    for ident, ok, words in told if not as_json_ else ():
        if ok:
            click.echo(f"{ident} {words}")
        else:
            click.echo(f"Error: {ident}: {words}", err=True)
    return OK if all(ok for _, ok, _ in told) else FOUND


@click.command(
    "cancel",
    cls=Command,
    examples=(
        "cancel 1764043200123456789-0123456789abcdef",
        "cancel 1764043200123456789-0123456789abcdef --kill",
    ),
    see_also="list, pause, show",
)
@click.argument("ids", metavar="ID…", nargs=-1, required=True)
@click.option("--kill", is_flag=True, help="Kill the process of one that runs; it starts anew.")
@json_option
@pass_where
def cancel_command(where: Where, ids: tuple[str, ...], kill: bool, as_json_: bool) -> int:
    """Cancel tasks: one that waits is taken out, in one that runs TaskCancelled is raised."""
    where.home()

    def cancel(ident: str) -> None:
        if not calls.get(ident).cancel(kill=kill):
            raise ValueError(f"it can't be cancelled: it is {calls.get(ident).status()}")

    return for_each(ids, cancel, "is cancelled", as_json_)


@click.command(
    "purge",
    cls=Command,
    examples=(
        "purge --state queued --yes  # cancel what waits",
        "purge --state dead --older-than 30d --yes",
    ),
    see_also="cancel, dead drop",
)
@click.option(
    "--state",
    type=click.Choice(["queued", "scheduled", "dead", "expired"]),
    required=True,
    help="What waits is cancelled; of what is dead or expired the letter is dropped.",
)
@click.option("--older-than", type=AGE, metavar="AGE", default=0.0, help="Like 30d.")
@click.option("--task", metavar="NAME", help="Only those of this task.")
@yes_option
@json_option
@pass_where
def purge_command(
    where: Where, state: str, older_than: float, task: str | None, yes: bool, as_json_: bool
) -> int:
    """Remove tasks for good: those that wait, or dead letters."""
    where.home()
    found = _to_purge(state, time.time() - older_than, task)
    if found and not yes:
        click.confirm(
            f"Remove {many(len(found), 'task')} ({state}) for good?", abort=True, err=True
        )
    act = dead.drop if state in ("dead", "expired") else lambda ident: calls.get(ident).cancel()
    removed = [ident for ident in found if _is_done(act, ident)]
    if as_json_:
        as_json({"removed": removed})
    else:
        click.echo(f"{many(len(removed), 'task')} removed")
    return OK


def _to_purge(state: str, before: float, task: str | None) -> list[str]:
    if state in ("dead", "expired"):
        return [
            letter.id
            for letter in dead.list()
            if letter.dead_at <= before
            and task in (None, letter.task)
            and (letter.reason == "expired") is (state == "expired")
        ]
    runs = observe.runs(state, task, limit=1_000_000)
    return [run.id for run in runs if run.created_at <= before]


def _is_done(act: Any, ident: str) -> bool:
    try:
        return act(ident) is not False
    except (KeyError, ValueError, UwsgiTasksError):  # somebody else was faster
        return False


@click.command(
    "pause",
    cls=Command,
    examples=("pause", "pause mail"),
    see_also="resume, drain, status",
)
@click.argument("queue", required=False)
@pass_where
def pause_command(where: Where, queue: str | None) -> None:
    """Take no further tasks: what runs goes on, what is called is kept.

    It holds until `uwsgi-tasks resume`, over restarts of the server too. A QUEUE that has a spool
    directory of its own can be paused alone.
    """
    where.home()
    control.pause(queue)
    click.echo(f"Taking tasks of {queue} is paused" if queue else "Taking tasks is paused")


@click.command("resume", cls=Command, examples=("resume", "resume mail"), see_also="pause, status")
@click.argument("queue", required=False)
@pass_where
def resume_command(where: Where, queue: str | None) -> None:
    """Take tasks again after a pause or drain."""
    where.home()
    control.resume(queue)
    click.echo(f"Tasks of {queue} are taken" if queue else "Tasks are taken")


@click.command(
    "drain",
    cls=Command,
    examples=("drain", "drain --timeout 10m && systemctl stop app"),
    see_also="reload, pause, resume",
)
@click.option(
    "--timeout", type=AGE, default=60.0, metavar="AGE", help="Wait so long.  [default: 60s]"
)
@pass_where
def drain_command(where: Where, timeout: float) -> None:
    """Take no further tasks and wait until those that run have ended; it stays paused."""
    where.home()
    if not control.drain(timeout):
        fail(
            f"{many(control.busy(), 'task')} still in hand; no further ones are taken",
            "uwsgi-tasks list --state running, or a longer --timeout",
        )
    click.echo("Nothing runs any more; uwsgi-tasks resume takes tasks again")


@click.command(
    "reload",
    cls=Command,
    examples=("reload", "reload --timeout 10m --fifo /run/app/master.fifo"),
    see_also="drain, check",
)
@click.option(
    "--timeout", type=AGE, default=60.0, metavar="AGE", help="Wait so long.  [default: 60s]"
)
@click.option(
    "--fifo", metavar="PATH", help="The master's FIFO.  [default: the server's own master-fifo]"
)
@pass_where
def reload_command(where: Where, timeout: float, fifo: str | None) -> None:
    """Reload the server when the tasks that run have ended; none is taken in between."""
    where.home()
    path = fifo or _fifo_of(where)
    if not path:
        fail(
            "no way is known to tell the master",
            "add `master-fifo = PATH` to uwsgi.ini, or name one with --fifo PATH",
        )
    if not control.reload(timeout, fifo=path):
        fail(
            f"{many(control.busy(), 'task')} still in hand: the server isn't reloaded, and goes on",
            "a longer --timeout, or uwsgi-tasks list --state running",
        )
    click.echo("The server reloads")


def _fifo_of(where: Where) -> str:
    record = where.record()
    found = record.options.get("master-fifo", "") if record is not None else ""
    if not found:
        found = where.options().last("master-fifo") or ""
    folder = plain(record.options).get("chdir", "") if record is not None else ""
    return os.path.join(folder, found) if found else ""
