"""Cancelling a call, wherever it is: taken out of the queue, stopped in its task, or killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from . import board, finding, history, inflight, stopping
from .inflight import Record
from .model import Message, TaskExecutor
from .site import Site

_DIES_S = 5.0
_LOOK_S = 0.002
_KILLED = "cancelled: its process was killed"


def cancel(site: Site, ident: str, spools: Sequence[str], *, kill: bool, keep: bool) -> bool:
    """Cancel a call; see ``Handle.cancel``.

    Args:
        site: The home.
        ident: The message's id.
        spools: The spool directories in which it may lie.
        kill: Kill the process that runs it.
        keep: Note it in the history.
    """
    message = finding.message_of(site, ident, spools)
    if site.cancel(ident, spools):
        note(site, message, "cancelled before it ran", keep=keep)
        site.waits.end(ident)
        return True
    record = finding.in_hand(site, ident)
    if record is None or record.pid == os.getpid():
        return False  # a task that wants to end returns
    if not kill:
        # one that has ended meanwhile may wait for its next attempt
        return _stop(site, record) or cancel(site, ident, spools, kill=kill, keep=keep)
    if not _kill(site, record):
        return False
    if _note_killed(site, record):
        note(site, message, _KILLED, keep=keep, record=record)
        site.waits.end(ident)
    return True


def _stop(site: Site, record: Record) -> bool:
    """Let the task of a record be stopped softly; by the timekeeper where its pid isn't ours.

    False if its run has ended meanwhile.
    """
    site.board.ask_to_stop(record.place, record.id, record.delivery, board.SOFTLY)
    if site.inflight.record(record.place) != record:
        return False
    if not signal_to(site, record, stopping.STOP_SIGNAL):
        site.home.wake_timekeeper()
    return True


def signal_to(site: Site, record: Record, number: int) -> bool:
    """Send a signal to the process of a record, if it is one of this PID namespace."""

    def is_meant() -> bool:
        return inflight.is_process(record) and site.inflight.record(record.place) == record

    return stopping.send(record.pid, number, is_meant)


def pass_stops_on(site: Site) -> None:
    """Signal to the processes that are asked to stop: the timekeeper's part."""
    for place, ident, delivery in site.board.stops():
        record = site.inflight.record(place)
        if (record.id, record.delivery, record.state) == (ident, delivery, inflight.BEGUN):
            signal_to(site, record, stopping.STOP_SIGNAL)
        else:
            site.board.ask_to_stop(place, ident, delivery, 0)  # it is over


def _kill(site: Site, record: Record) -> bool:
    site.board.ask_to_stop(record.place, record.id, record.delivery, board.KILLED)
    if not signal_to(site, record, signal.SIGKILL):
        site.board.ask_to_stop(record.place, record.id, record.delivery, board.SOFTLY)
        site.home.wake_timekeeper()
        return False
    deadline = time.monotonic() + _DIES_S
    while inflight.is_process(record) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return True


def _note_killed(site: Site, record: Record) -> bool:
    """Note that a killed delivery is over, unless it ended just before or was noted already."""
    over = site.inflight.over_at(record.id)
    if over is not None and over[0] >= record.delivery:
        return False
    site.inflight.note_over(record.id, record.delivery, inflight.CANCELLED)
    if site.has_store():
        site.store.finish(record.id, record.delivery)
    return True


def was_killed(site: Site, record: Record) -> bool:
    """Tell whether the process of a record was killed because its task was cancelled."""
    return site.board.is_asked_to_stop(record.place, record.id, record.delivery) == board.KILLED


def note(
    site: Site, message: Message | None, reason: str, *, keep: bool, record: Record | None = None
) -> None:
    """Write a cancelled message into the history."""
    if message is None or not keep:
        return
    is_mule = record is not None and record.kind == inflight.MULE
    kept = history.record_of(
        message,
        inflight.CANCELLED,
        TaskExecutor.MULE if is_mule else TaskExecutor.SPOOLER,
        reason=reason,
        details=history.details_of("", message.attempts, None, ()),
    )
    if record is not None:
        kept = kept._replace(started_at=record.started_at, pid=record.pid)
    site.history.note(kept)
