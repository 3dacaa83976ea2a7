"""Running one message here, in the foreground: run."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from .. import calls, engine, finding, runner
from ..errors import NotAvailable
from ..model import Message, Outcome, Run, TaskExecutor
from ..site import Site
from .base import FOUND, OK, Command, Where, fail, pass_where

_RUNNABLE = ("queued", "scheduled", "dead", "expired")


@click.command(
    "run",
    cls=Command,
    examples=(
        "run 1764043200123456789-0123456789abcdef --pdb",
        "run 1764043200123456789-0123456789abcdef --settle",
    ),
    see_also="show, retry, import",
)
@click.argument("id_", metavar="ID")
@click.option("--pdb", is_flag=True, help="When it fails, open the debugger where it did.")
@click.option(
    "--settle",
    is_flag=True,
    help="Let it count: take it out of the queue, or the dead letters, and write down its end.",
)
@click.option(
    "--import",
    "modules",
    metavar="MODULE",
    multiple=True,
    help="Import this first, as a Django project's `mysite.background`; may be repeated.",
)
@pass_where
def run_command(where: Where, id_: str, pdb: bool, settle: bool, modules: tuple[str, ...]) -> int:
    """Run a dead or queued task here and now, in the foreground, as this user.

    Its state stays as it is, unless --settle is said: one that waits is run by the server as well.
    The current directory has to be the application's, so that its modules can be imported.
    """
    where.home()
    import_modules(where, modules)
    engine.configure(allowed_packages="*")
    this = engine.current()
    site, spools = this.require_site(), calls.spools_of(this.require_site())
    place = finding.place_of(site, id_, spools)
    message = finding.message_of(site, id_, spools)
    if place.state not in _RUNNABLE or message is None:
        _refuse(id_, place.state)
    spool = os.path.dirname(place.path) or (spools[0] if spools else "")
    if settle:
        message = _take(site, message, place.state)
    run, outcome = _run(message, spool if settle else "", settle)
    if pdb and outcome.error is not None:
        _debug(outcome)
    if settle:
        this.settle(site, run, this.bounded(run, outcome), spool)
        if outcome.state == "ok" or outcome.state == "retry":
            site.letters.remove(id_)
        site.waits.end(id_)
    return _tell(outcome)


def _refuse(ident: str, state: str) -> NoReturn:
    why = (
        f"nothing is known of {ident}"
        if state == "gone"
        else f"{ident} can't be run: it is {state}"
    )
    if state in _RUNNABLE:
        why = f"{ident} can't be run: its message can't be read"
    fail(why, "uwsgi-tasks list, or uwsgi-tasks dead list")


def import_modules(where: Where, modules: tuple[str, ...]) -> None:
    """Import modules as the application would, from here and from where the ini file says."""
    import importlib

    options = where.options()
    folder = os.path.dirname(options.path)
    paths = [os.path.join(folder, path) for path in options.all("pythonpath", "pp", "chdir")]
    for path in [*reversed(paths), os.getcwd()]:
        if path not in sys.path:
            sys.path.insert(0, path)
    for name in modules:
        importlib.import_module(name)


def _take(site: Site, message: Message, state: str) -> Message:
    """Take a message out of where it waits, and return what is to be run.

    Raises:
        NotAvailable: A spooler was faster.
    """
    waits = state in ("queued", "scheduled")
    if waits and not site.cancel(message.id, calls.spools_of(site)):
        raise NotAvailable(f"{message.id} can't be taken out of the queue: a spooler has it")
    return message._replace(delivery=message.delivery + 1, stored=False, expires_at=0.0)


def _run(message: Message, spool: str, settle: bool) -> tuple[Run, Outcome]:
    this = engine.current()
    executor = TaskExecutor.SPOOLER if settle else TaskExecutor.RUNTIME
    return runner.run(message, executor, this.resolve, this.call, spool)


def _debug(outcome: Outcome) -> None:
    import pdb
    import traceback

    error = outcome.error
    assert error is not None
    traceback.print_exception(error)
    pdb.post_mortem(error.__traceback__)


def _tell(outcome: Outcome) -> int:
    shown = f": {outcome.reason}" if outcome.reason else ""
    if outcome.error is not None:
        shown += f" ({type(outcome.error).__name__}: {outcome.error})"
    click.echo(f"{outcome.state}{shown}", err=outcome.state != "ok")
    if outcome.state == "ok" and outcome.result is not None:
        click.echo(repr(outcome.result))
    return OK if outcome.state == "ok" else FOUND
