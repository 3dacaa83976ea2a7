"""Dead letters: list, show, retry, drop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .. import dead
from .acting import for_each
from .base import Group, Where, fail, pass_where
from .output import as_json, brief, facts, many, moment, table
from .parameters import json_option, yes_option

Function = Callable[..., Any]


@click.group(
    "dead",
    cls=Group,
    examples=("dead list", "dead show ID", "dead retry --task shop.tasks.send_mail"),
    see_also="list, retry, purge",
)
def dead_command() -> None:
    """Look at the tasks that didn't succeed, run them again, or drop them."""


def _which(function: Function) -> Function:
    """Add the options that say which letters are meant."""
    for option in (
        click.option("--reason", metavar="TEXT", help="Only those whose reason begins so."),
        click.option("--task", metavar="NAME", help="Only those of this task."),
    ):
        function = option(function)
    return function


def _letters(task: str | None, reason: str | None) -> list[dead.DeadLetter]:
    return [
        letter
        for letter in dead.list()
        if task in (None, letter.task) and letter.reason.startswith(reason or "")
    ]


@dead_command.command(
    "list",
    examples=("dead list", 'dead list --reason "unknown task" --json'),
    see_also="dead show, dead retry",
)
@_which
@json_option
@pass_where
def list_letters(where: Where, task: str | None, reason: str | None, as_json_: bool) -> None:
    """List the dead letters, the oldest first."""
    where.home()
    letters = _letters(task, reason)
    if as_json_:
        as_json(letters)
        return
    rows = [
        (one.id, one.task, brief(one.dead_at), len(one.attempts), one.reason, one.error)
        for one in letters
    ]
    columns = ("id", "task", "dead at", "attempts", "reason", "error")
    table(columns, rows, wide=("dead at", "attempts"))


@dead_command.command(
    "show", examples=("dead show 1764043200123456789-0123456789abcdef",), see_also="show, dead list"
)
@click.argument("id_", metavar="ID")
@json_option
@pass_where
def show_letter(where: Where, id_: str, as_json_: bool) -> None:
    """Show one dead letter: why it is dead, its attempts and its traceback."""
    where.home()
    try:
        letter = dead.show(id_)
    except KeyError as error:
        fail(error.args[0], "uwsgi-tasks dead list")
    if as_json_:
        as_json(letter)
        return
    facts(
        [
            ("id", letter.id),
            ("task", letter.task or "?"),
            ("reason", letter.reason),
            ("error", letter.error),
            ("dead at", moment(letter.dead_at)),
            ("queue", letter.queue),
            ("spool", letter.spool),
            ("can be retried", "yes" if letter.has_message else "no"),
        ]
    )
    for attempt in letter.attempts:
        click.echo(
            f"attempt {attempt['attempt']}  {moment(attempt['started'])}  {attempt['error']}"
        )
    if letter.traceback:
        click.echo(f"\n{letter.traceback.rstrip()}")


def _chosen(
    ids: tuple[str, ...], every: bool, task: str | None, reason: str | None
) -> tuple[str, ...]:
    if ids and (every or task or reason):
        raise click.UsageError("name ids, or say --all, --task or --reason")
    if ids:
        return ids
    if not (every or task or reason):
        raise click.UsageError("say which: ids, --all, --task or --reason")
    return tuple(letter.id for letter in _letters(task, reason))


@dead_command.command(
    "retry",
    examples=(
        "dead retry 1764043200123456789-0123456789abcdef",
        'dead retry --reason "unknown task"  # after a deploy',
        "dead retry --all",
    ),
    see_also="dead list, retry",
)
@click.argument("ids", metavar="[ID…]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@_which
@json_option
@pass_where
def retry_letters(
    where: Where,
    ids: tuple[str, ...],
    every: bool,
    task: str | None,
    reason: str | None,
    as_json_: bool,
) -> int:
    """Run dead tasks again: same id and arguments, all executions anew."""
    where.home()
    return for_each(_chosen(ids, every, task, reason), dead.retry, "is queued again", as_json_)


@dead_command.command(
    "drop",
    examples=("dead drop 1764043200123456789-0123456789abcdef", "dead drop --task old.task --yes"),
    see_also="dead list, purge",
)
@click.argument("ids", metavar="[ID…]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@_which
@yes_option
@json_option
@pass_where
def drop_letters(
    where: Where,
    ids: tuple[str, ...],
    every: bool,
    task: str | None,
    reason: str | None,
    yes: bool,
    as_json_: bool,
) -> int:
    """Remove dead letters for good."""
    where.home()
    chosen = _chosen(ids, every, task, reason)
    if chosen and not ids and not yes:
        click.confirm(f"Drop {many(len(chosen), 'dead letter')} for good?", abort=True, err=True)
    return for_each(chosen, dead.drop, "is dropped", as_json_)
