"""Checking: check."""

from __future__ import annotations

import os
from typing import Any

import click

from .. import check, config, record
from ..errors import ConfigError, HomeError
from ..worker.ini import DEFAULT_HOME
from .base import FOUND, NO_HOME, OK, USAGE, Command, Where, fail, pass_where
from .debugging import import_modules
from .output import as_json, many, table
from .parameters import json_option


@click.command(
    "check",
    cls=Command,
    examples=(
        "check",
        "--ini /srv/app/uwsgi.ini check",
        "check --import shop.tasks  # their time limits, too",
        "check --show-config",
    ),
    see_also="init, status",
)
@click.option("--show-config", is_flag=True, help="Show each setting, its value and its source.")
@click.option(
    "--import",
    "modules",
    metavar="MODULE",
    multiple=True,
    help="Import a module with tasks, to look at their time limits; may be repeated.",
)
@json_option
@pass_where
def check_command(where: Where, show_config: bool, modules: tuple[str, ...], as_json_: bool) -> int:
    """Look for what is wrong, or will be, with the ini file, the directories and the server.

    Each finding has an id that stays, one sentence, and what to do; the reference explains them
    all. The exit code is 1 if there is an error or a warning; hints don't count.
    """
    facts = _facts(where, modules)
    if show_config:
        return _show_config(facts, as_json_)
    findings = check.examine(facts)
    if as_json_:
        as_json({"findings": findings, "notes": facts.options.notes})
    else:
        _tell(where, facts, findings)
    return FOUND if any(found.severity != "hint" for found in findings) else OK


def _facts(where: Where, modules: tuple[str, ...]) -> check.Facts:
    written = _record(where)
    if written is not None and not where.ini and os.path.isfile(written.options.get("ini", "")):
        where = Where(where.asked, written.options["ini"])
    import_modules(where, modules)
    home = _home(where)
    if not where.ini and not home:
        fail(
            "there is nothing to check: no uwsgi.ini here, and no home is known",
            "uwsgi-tasks --ini FILE check, or uwsgi-tasks init",
            NO_HOME,
        )
    spools = tuple(written.spools) if written is not None and not where.ini else ()
    where.options()  # it tells if the file can't be read
    return check.of_files(where.ini, home, spools, _plain(written))


def _home(where: Where) -> str:
    if where.asked:
        return record.home_at(os.path.abspath(where.asked))
    named = config.variable(f"{config.ENV_PREFIX}HOME")
    if not named and not where.ini and os.path.isdir(DEFAULT_HOME):
        named = DEFAULT_HOME
    return record.home_at(os.path.abspath(named)) if named else ""


def _record(where: Where) -> record.Record | None:
    path = _home(where)
    try:
        return record.read(path) if path else None
    except HomeError as error:
        fail(str(error))


def _plain(written: record.Record | None) -> dict[str, Any]:
    return written._asdict() if written is not None else {}


def _tell(where: Where, facts: check.Facts, findings: list[check.Finding]) -> None:
    looked = [facts.options.path, facts.home if os.path.isdir(facts.home) else ""]
    if not where.quiet:
        click.echo(f"Looked at {' and '.join(path for path in looked if path) or 'nothing'}")
        for note in facts.options.notes:
            click.echo(f"Note: {note}")
        if where.ini and not facts.known:
            click.echo("Note: there is no uWSGI here, so that unknown options aren't found")
    for found in findings:
        click.echo(f"\n{found.id} {found.severity}: {found.sentence}.")
        click.echo(f"  {found.cure[:1].upper()}{found.cure[1:]}.")
        for line in found.lines:
            click.echo(f"      {line}")
    errors = [found for found in findings if found.severity != "hint"]
    if not where.quiet:
        click.echo(
            ("\n" if findings else "")
            + f"{many(len(errors), 'problem')}, {many(len(findings) - len(errors), 'hint')}"
        )


def _show_config(facts: check.Facts, as_json_: bool) -> int:
    try:
        origins = facts.origins or config.load({}, facts.options.placeholder)
    except ConfigError as error:
        fail(str(error), "correct it where it stands", USAGE)
    rows = [
        (name, _shown(name, value), origins.sources[name])
        for name, value in origins.settings._asdict().items()
    ]
    if as_json_:
        as_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        table(("setting", "value", "source"), rows)
    return OK


def _shown(name: str, value: Any) -> Any:
    if name == "secret":
        return f"(set, {len(value)} keys)" if value else "(the generated key of the home)"
    return dict(value) if name == "queues" else value
