"""Watching: watch one task to its end, top for all of them."""

from __future__ import annotations

import shutil
import sys
import time

import click

from .. import calls, observe
from .base import FOUND, OK, Command, Where, fail, pass_where
from .looking import progress_text, row, took
from .output import as_json, bar, duration
from .parameters import AGE, json_option

_FINAL = ("ok", "dead", "expired", "cancelled")
_UNKNOWN_S = 2.0
_CLEAR, _HIDE, _SHOW, _REST = "\x1b[H\x1b[2J", "\x1b[?25l", "\x1b[?25h", "\x1b[K"


@click.command(
    "watch",
    cls=Command,
    examples=("watch 1764043200123456789-0123456789abcdef", "watch ID --timeout 10m"),
    see_also="show, top",
)
@click.argument("id_", metavar="ID")
@click.option("--timeout", type=AGE, metavar="AGE", help="Give up after so long.  [default: never]")
@click.option(
    "--interval", type=AGE, default=0.5, metavar="AGE", help="Look every so often.  [default: 0.5s]"
)
@json_option
@pass_where
def watch_command(
    where: Where, id_: str, timeout: float | None, interval: float, as_json_: bool
) -> int:
    """Follow one task until it ends: its progress as a bar, with rate and time left.

    The exit code is 0 if it ends ok, and 1 otherwise. With --json nothing is shown before the end.
    """
    where.home()
    run = follow(id_, timeout, interval, shows=not as_json_ and not where.quiet)
    if as_json_:
        as_json(run)
    return OK if run.state == "ok" else FOUND


def follow(ident: str, timeout: float | None, interval: float, *, shows: bool) -> observe.RunInfo:
    """Show a run until it has ended, and return it.

    Raises:
        Failure: Nothing is known of it, or it takes too long.
    """
    handle, line = calls.get(ident), ""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        run = _look(ident)
        if shows:
            line = _redraw(line, _line(run))
        if run.state in _FINAL:
            if shows:
                _finish(run)
            return run
        left = interval if deadline is None else min(interval, deadline - time.monotonic())
        if left <= 0:
            if shows:
                click.echo()
            fail(
                f"{ident} is still {run.state} after {duration(timeout or 0)}", "a later --timeout"
            )
        handle.wait(left)


def _look(ident: str) -> observe.RunInfo:
    """Return a run; one that changes its place is nowhere for a moment."""
    deadline = time.monotonic() + _UNKNOWN_S
    while True:
        try:
            return observe.run(ident)
        except KeyError as error:
            if time.monotonic() > deadline:
                fail(error.args[0], "uwsgi-tasks list, for those that are known")
            time.sleep(0.05)


def _line(run: observe.RunInfo) -> str:
    words = [run.state, run.task, took(run)]
    if run.progress is not None:
        words = [run.state, bar(run.progress.done, run.progress.total), progress_text(run)]
    return "  ".join(word for word in words if word)


def _redraw(before: str, line: str) -> str:
    """Show a line: in the place of the last one on a terminal, else if it says something new."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r{line[:width]}{_REST}", nl=False)
    elif line.partition("  ")[0] != before.partition("  ")[0] or ("[" in line and line != before):
        click.echo(line)
    return line


def _finish(run: observe.RunInfo) -> None:
    if sys.stdout.isatty():
        click.echo()
    if run.state != "ok":
        click.echo(f"{run.state}: {run.reason}" + (f" ({run.error})" if run.error else ""))


@click.command(
    "top",
    cls=Command,
    examples=("top", "top --interval 5", "top --count 1  # once, for a script"),
    see_also="status, list, watch",
)
@click.option(
    "--interval", type=AGE, default=2.0, metavar="AGE", help="Look every so often.  [default: 2s]"
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many looks.")
@pass_where
def top_command(where: Where, interval: float, count: int | None) -> None:
    """Show what runs, what waits and what ended last, again and again; Ctrl-C ends it."""
    where.home()
    is_terminal = sys.stdout.isatty()
    if is_terminal:
        click.echo(_HIDE, nl=False)
    before: tuple[float, int] | None = None
    try:
        while True:
            now, status = time.monotonic(), observe.status()
            ended = sum(status.finished.values())
            rate = (ended - before[1]) / (now - before[0]) if before else None
            lines = _screen(where, status, rate)
            click.echo((_CLEAR if is_terminal else "") + "\n".join(lines))
            count = count and count - 1
            if count == 0:
                return
            before = (now, ended)
            time.sleep(interval)
    except KeyboardInterrupt:
        return
    finally:
        if is_terminal:
            click.echo(_SHOW, nl=False)


def _screen(where: Where, status: observe.Status, rate: float | None) -> list[str]:
    size = shutil.get_terminal_size((120, 40))
    room = max(3, size.lines - 6)
    server = "up" if where.is_up() else "DOWN"
    paused = "  PAUSED" if status.paused else ""
    speed = "" if rate is None else f"  {max(0.0, rate):.1f}/s"
    head = [
        f"uwsgi-tasks  {time.strftime('%H:%M:%S')}  server {server}{paused}",
        f"running {status.running}  queued {status.queued}  scheduled {status.scheduled}"
        f"  dead letters {status.dead_letters}  ok {status.finished.get('ok', 0)}{speed}",
        "",
        f"{'STATE':<9} {'TASK':<22} {'ID':<36} {'ATT':>3}  {'TOOK':<8} DETAIL",
    ]
    runs = observe.runs(limit=room)
    return [line[: size.columns - 1] for line in [*head, *map(_top_line, runs)]]


def _top_line(run: observe.RunInfo) -> str:
    detail = str(row(run)[-1])
    if run.progress is not None and run.state == "running":
        detail = f"{bar(run.progress.done, run.progress.total, 12)} {progress_text(run)}"
    return (
        f"{run.state:<9} {run.task[-22:] or '?':<22} {run.id:<36} {run.attempt:>3}"
        f"  {took(run):<8} {detail}"
    )
