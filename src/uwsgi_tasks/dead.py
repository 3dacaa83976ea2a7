"""Dead letters, as users handle them: list, show, retry, drop."""

from __future__ import annotations

from . import engine, inflight, wire
from .errors import NotAvailable, WireError
from .letters import DeadLetter
from .model import ANEW, Placement, TaskExecutor
from .site import Site

__all__ = ["DeadLetter", "drop", "list", "retry", "show"]
All = list[DeadLetter]


def list() -> All:
    """Return all dead letters of this home, the oldest first.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    return _site().letters.list()


def show(ident: str) -> DeadLetter:
    """Return one dead letter.

    Raises:
        KeyError: There is none of that id.
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    letter = _site().letters.read(ident)
    if letter is None:
        raise KeyError(f"There is no dead letter {ident!r}")
    return letter


def retry(ident: str) -> None:
    """Submit a dead task again: the same id and arguments, its allowed executions anew.

    Raises:
        KeyError: There is no dead letter of that id.
        NotAvailable: Its message can't be read, so that it can't run, or there is no home here,
            or no way to its server.
    """
    site = _site()
    with site.letters.locked():  # it may die again before its letter is removed here
        _retry(site, show(ident))


def _retry(site: Site, letter: DeadLetter) -> None:
    this, ident = engine.current(), letter.id
    if not letter.has_message:
        raise NotAvailable(f"{ident} can't be retried: {letter.reason} ({letter.error})")
    try:
        message = wire.unpack(site.letters.content(ident), site.signer)
    except WireError as error:
        raise NotAvailable(f"{ident} can't be retried: {error}") from error
    spec = engine.registry.specs.get(message.task)
    policy = message.policy or (spec.policy if spec else None)
    last = letter.attempts[-1]["attempt"] if letter.attempts else message.attempt
    again = message._replace(
        attempt=last + 1,
        delivery=message.delivery + 1,
        crashes=0,
        interruptions=0,
        expires_at=0.0,
        executions_left=ANEW if policy is None else policy.left_after(0),
        at=0.0,
        first_unknown_at=0.0,
        stored=False,
    )
    spools = {this.theirs(spool): spool for spool in this.spools()}
    spool = spools.get(letter.spool, "")
    if letter.spool and not spool and not this.server.inside:
        raise NotAvailable(
            f"{ident} would run in this process, which isn't its server: configure(home=…), or"
            f" set UWSGITASKS_HOME, to the home of that server, which wrote to {letter.spool!r}"
        )
    # its process may have died before its file was gone: that delivery is over
    site.inflight.note_over(ident, message.delivery, inflight.DEAD)
    placement = Placement(TaskExecutor.SPOOLER if spool else TaskExecutor.AUTO, spool)
    this.submit(again, placement)
    site.letters.remove(ident)


def drop(ident: str) -> None:
    """Remove a dead letter for good.

    Raises:
        KeyError: There is none of that id.
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    if not _site().letters.remove(ident):
        raise KeyError(f"There is no dead letter {ident!r}")


def _site() -> Site:
    return engine.current().require_site()
