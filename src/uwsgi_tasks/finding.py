"""Finding one message in a home: where it is, what it is, and how it ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import inflight, journal, wire
from .errors import WireError
from .executors import spooler as to_spool
from .inflight import BEGUN, Record
from .model import Message
from .site import Site

EXPIRED_REASON = "expired"
FINAL = ("ok", "dead", "expired", "cancelled")
"""The final states."""
_OVER = {
    inflight.OK: "ok",
    inflight.DEAD: "dead",
    inflight.EXPIRED: "expired",
    inflight.CANCELLED: "cancelled",
}


class Place(NamedTuple):
    """Where a message is.

    Attributes:
        state: ``"queued"``, ``"scheduled"``, ``"running"``, a final state, or ``"gone"`` where
            nothing is known of it, or not any more.
        path: Its spool file, if it lies in a spool.
    """

    state: str
    path: str = ""


def place_of(site: Site, ident: str, spools: Sequence[str]) -> Place:
    """Return where a message is, and how it ended if it did."""
    state, path = site.find(ident, spools)
    if state == "gone" and in_hand(site, ident) is not None:
        return Place("running")  # of a mule
    if state == "queued" and not path and (site.store.due_of(ident) or 0.0) > time.time():
        return Place("scheduled")
    if state not in ("dead", "gone"):
        return Place(state, path)
    over = site.inflight.over_at(ident)
    if over is not None and over[1] in _OVER and (state == "gone" or over[1] != inflight.OK):
        return Place(_OVER[over[1]])
    if state == "dead":
        letter = site.letters.read(ident)
        return Place("expired" if letter and letter.reason == EXPIRED_REASON else "dead")
    record = site.history.find(ident)
    return Place(journal.FINAL_STATES[record.state]) if record is not None else Place("gone")


def in_hand(site: Site, ident: str) -> Record | None:
    """Return the record of the living process that has a message in hand."""
    for record in site.inflight.records():
        if record.id == ident and record.state == BEGUN and site.inflight.is_alive(record):
            return record
    return None


def message_of(site: Site, ident: str, spools: Sequence[str]) -> Message | None:
    """Return a message that hasn't ended, from its file, its row or its dead letter."""
    _, path = site.find(ident, spools)
    content = to_spool.content_of(path) if path else None
    if content is not None:
        return unpacked(site, wire.envelope_of_file(content))
    envelope = site.store.envelope_of(ident) if site.has_store() else b""
    if not envelope and site.letters.has(ident):
        try:
            envelope = site.letters.content(ident)
        except OSError:
            envelope = b""
    record = None if envelope else in_hand(site, ident)
    if record is not None and record.kind == inflight.MULE:
        envelope = site.inflight.hand_of(record)
    return unpacked(site, envelope) if envelope else None


def details(record: journal.Record) -> dict[str, Any]:
    """Return what the history keeps of a run beside its figures."""
    try:
        found = json.loads(record.details) if record.details else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def unpacked(site: Site, envelope: bytes) -> Message | None:
    """Return the message of an envelope, or ``None`` if it is none that may be read."""
    try:
        return wire.unpack(envelope, site.signer)
    except WireError:
        return None


def files_of(spool: str, limit: int) -> list[str]:
    """Return the paths of the tasks in a spool directory, the oldest first."""
    try:
        with os.scandir(spool) as entries:
            names = [e.name for e in entries if e.name.startswith(to_spool.FILE_PREFIX)]
    except OSError:
        return []
    return [os.path.join(spool, name) for name in sorted(names)[:limit]]


def count_files(spool: str) -> int:
    """Return how many tasks lie in a spool directory."""
    try:
        return sum(name.startswith(to_spool.FILE_PREFIX) for name in os.listdir(spool))
    except OSError:
        return 0
