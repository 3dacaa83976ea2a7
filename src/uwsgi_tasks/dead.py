"""Dead letters, as users handle them: list, show, retry, drop."""

from __future__ import annotations

from . import engine, wire
from .errors import NotAvailable, WireError
from .letters import DeadLetter
from .model import Placement, TaskExecutor
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
        NotAvailable: Its message can't be read, so that it can't run, or there is no home here.
    """
    letter, site, this = show(ident), _site(), engine.current()
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
        executions_left=None if policy is None else policy.left_after(0),
        at=0.0,
        first_unknown_at=0.0,
        stored=False,
    )
    spool = letter.spool if letter.spool in this.spools() else ""
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
