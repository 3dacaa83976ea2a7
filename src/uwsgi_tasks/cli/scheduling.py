"""Schedules: list, pause, resume, run, next."""

from __future__ import annotations

from typing import Any

import click

from .. import schedules
from .acting import for_each
from .base import Group, Where, pass_where
from .output import as_json, moment, table
from .parameters import json_option


@click.group(
    "schedules",
    cls=Group,
    examples=("schedules list", "schedules pause shop.tasks.report", "schedules next NAME -n 5"),
    see_also="list, top",
)
def schedules_command() -> None:
    """Look at timers and cron schedules, pause them, or let them fire now."""


@schedules_command.command(
    "list", examples=("schedules list", "schedules list --json"), see_also="schedules next"
)
@json_option
@pass_where
def list_schedules(where: Where, as_json_: bool) -> None:
    """List the schedules with their rule, and when they fire next."""
    where.home()
    found = schedules.list()
    if as_json_:
        as_json(found)
        return
    columns = ("name", "task", "state", "rule", "target", "next at", "last at")
    rows = [
        (s.name, s.task, s.state, s.rule, s.target, _at(s.next_at), _at(s.last_at)) for s in found
    ]
    table(columns, rows)


def _at(stamp: Any) -> str:
    return moment(stamp.timestamp()) if stamp is not None else ""


@schedules_command.command(
    "pause", examples=("schedules pause shop.tasks.report",), see_also="schedules resume"
)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@json_option
@pass_where
def pause_schedules(where: Where, names: tuple[str, ...], as_json_: bool) -> int:
    """Let schedules fire no more, until they are resumed."""
    where.home()
    return for_each(names, schedules.pause, "is paused", as_json_)


@schedules_command.command(
    "resume", examples=("schedules resume shop.tasks.report",), see_also="schedules pause"
)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@json_option
@pass_where
def resume_schedules(where: Where, names: tuple[str, ...], as_json_: bool) -> int:
    """Let paused schedules fire again."""
    where.home()
    return for_each(names, schedules.resume, "fires again", as_json_)


@schedules_command.command(
    "run", examples=("schedules run shop.tasks.report",), see_also="call, schedules list"
)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@json_option
@pass_where
def run_schedules(where: Where, names: tuple[str, ...], as_json_: bool) -> int:
    """Let schedules fire now, beside their own moments."""
    where.home()
    return for_each(names, schedules.run_now, "fires now", as_json_)


@schedules_command.command(
    "next", examples=("schedules next shop.tasks.report -n 5",), see_also="schedules list"
)
@click.argument("name")
@click.option("-n", "number", type=click.IntRange(1, 1000), default=5, show_default=True)
@json_option
@pass_where
def next_moments(where: Where, name: str, number: int, as_json_: bool) -> None:
    """Show the next moments at which a schedule fires."""
    where.home()
    moments = schedules.next(name, number)
    if as_json_:
        as_json([stamp.isoformat() for stamp in moments])
        return
    for stamp in moments:
        click.echo(_at(stamp))
