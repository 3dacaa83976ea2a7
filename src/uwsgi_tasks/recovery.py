"""What a death left behind: found by the record of the process, and made good.

A delivery whose record says *begun*, by a process that is dead, has *crashed* or was *interrupted*.
A spool file is looked at when a spooler gets it: uWSGI's lock on it proves that nobody else has it.
What mules had in hand is looked at by the timekeeper.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence

from . import cancelling, engine, inflight, wire
from .errors import WireError
from .executors import spooler as to_spool
from .inflight import Record
from .model import SPOOL_OK, SPOOL_RETRY, Attempt, Message, Outcome, TaskExecutor
from .retry import wait_after_crash
from .server import Uwsgi
from .site import Site

logger = logging.getLogger(__name__)

_LOST_AFTER_S = 600.0
_MERCY_S = 5.0
_LET_THROUGH = 2
_ATTEMPTS_KEPT = 20
_FINAL = 3  # as in the store, which isn't imported where nothing waits
passed_over: dict[str, int] = {}
"""Messages that are over and whose files can't be removed: id → delivery."""


def load_passed_over(site: Site) -> None:
    """Read at the start of a process which files can't be removed."""
    passed_over.clear()
    if site.has_store():
        passed_over.update({ident: delivery for ident, delivery, _ in site.store.passed_over()})


def look(this: engine.Engine, site: Site, message: Message, spool: str, path: str) -> int | None:
    """Look at a message of which something is noted, before it runs.

    Returns:
        What uWSGI is told about its file; ``None`` when it is to run.
    """
    if passed_over.get(message.id, 0) >= message.delivery:
        if site.store.is_passed_over(message.id):
            return SPOOL_RETRY
        del passed_over[message.id]  # it could be removed after all, and came once more
    over = site.inflight.over_at(message.id)
    if over is not None and over[0] >= message.delivery:
        site.inflight.forget_dead(message.id, message.delivery)
        return _pass_over(site, message, over, path)
    for record in site.inflight.records():
        if record.id != message.id or record.state != inflight.BEGUN:
            continue
        if record.delivery > message.delivery:
            site.inflight.note_over(message.id, message.delivery, inflight.AGAIN)
            return _pass_over(site, message, (message.delivery, inflight.AGAIN, 0), path)
        if site.inflight.is_alive(record):
            return SPOOL_RETRY  # it isn't settled yet, or its task closed uWSGI's descriptors
        if record.delivery == message.delivery:
            deliver_again(this, site, message, record, TaskExecutor.SPOOLER, spool)
            return SPOOL_OK
        site.inflight.clear(record)
    return None


def died_in(this: engine.Engine, site: Site, ident: str) -> bool:
    """Tell whether a process died while it read the file of that id; then it isn't read again."""
    if not site.inflight.knows(ident):
        return False
    dead = [
        record
        for record in site.inflight.records()
        if record.id == ident
        and record.state == inflight.BEGUN
        and not site.inflight.is_alive(record)
    ]
    for record in dead:
        site.inflight.clear(record)
    return any(not _was_interrupted(this, site, record) for record in dead)


def is_over(site: Site, message: Message) -> bool:
    """Tell whether a message that no file holds ran already: it is refused, and counted."""
    over = site.inflight.over_at(message.id)
    in_hand = any(
        record.id == message.id
        and record.delivery >= message.delivery
        and record.state == inflight.BEGUN
        for record in site.inflight.records()
    )
    if not in_hand and (over is None or over[0] < message.delivery):
        return False
    site.home.count("refused")
    logger.warning(
        "Task %s %s came again, and ran already: it doesn't run twice", message.task, message.id
    )
    return True


def _pass_over(site: Site, message: Message, over: tuple[int, int, int], path: str) -> int:
    """Let uWSGI remove the file of a delivery that is over; leave it alone if that fails.

    A spooler that can't remove a file ends: one that was let through twice, and is there again,
    can't be removed.
    """
    _, state, seen = over
    if state not in (inflight.RETRIED, inflight.AGAIN):
        site.finish(message)  # who cancelled it may have died before, and its row would enter again
    if seen < _LET_THROUGH and os.access(os.path.dirname(path), os.W_OK):
        if state != inflight.CANCELLED or seen:  # a cancelled one may have been in hand, paused
            _refuse(site, message, inflight.STATES.get(state, "it was delivered again"))
        site.inflight.note_seen(message.id)
        return SPOOL_OK
    passed_over[message.id] = message.delivery
    site.store.pass_over(message.id, message.delivery, path)
    site.home.count("passed_over")
    logger.error(
        "The file %s can't be removed, and its task is over: it is passed over from now on."
        " Remove it, or make its directory writable",
        path,
        extra={"action": "passed_over", "task": message.task, "task_id": message.id},
    )
    return SPOOL_RETRY


def _refuse(site: Site, message: Message, end: str) -> None:
    site.home.count("refused")
    logger.warning(
        "Task %s %s is over (%s), its file came again: it is removed, and doesn't run twice",
        message.task,
        message.id,
        end,
        extra={"action": "refused", "task": message.task, "task_id": message.id},
    )


def deliver_again(
    this: engine.Engine,
    site: Site,
    message: Message,
    record: Record,
    executor: int,
    spool: str,
    mule: int | None = None,
) -> None:
    """Let a message run again whose process died, or bury it when that happened too often."""
    state = _written(site, message, record)
    if not state and cancelling.was_killed(site, record):
        state = inflight.CANCELLED
    if not state:
        state = _write_next(this, site, message, record, executor, spool, mule)
    if state != inflight.AGAIN:
        site.finish(message)
    site.inflight.note_over(message.id, message.delivery, state)
    if site.has_store():
        site.store.drop_checkpoint(message.id)
    if state == inflight.DEAD:
        this.remember_letter(site, message, executor, state)
    elif state == inflight.CANCELLED:
        this.remember_cancelled(site, message, record)
    site.inflight.clear(record)
    this.pump_if_any(site, spool)


def _written(site: Site, message: Message, record: Record) -> int:
    """Return what follows, where the process died after writing it down; else 0."""
    letter = site.letters.read(message.id)
    if letter is not None and letter.dead_at >= record.started_at:
        return inflight.DEAD
    stands = site.store.stands_at(message.id) if site.has_store() else None
    return inflight.AGAIN if stands is not None and stands[0] > message.delivery else 0


def _write_next(
    this: engine.Engine,
    site: Site,
    message: Message,
    record: Record,
    executor: int,
    spool: str,
    mule: int | None,
) -> int:
    """Write down what follows from a death: the next delivery, or a dead letter."""
    crashed = not _was_interrupted(this, site, record)
    evidence = _evidence(this, message, record, crashed)
    again = message._replace(
        delivery=message.delivery + 1,
        crashes=message.crashes + crashed,
        interruptions=message.interruptions + (not crashed),
        buffer=_buffer(site, message),
        at=0.0,
        attempts=(*message.attempts, evidence)[-_ATTEMPTS_KEPT:],
    )
    site.home.count("crashed" if crashed else "interrupted")
    extra = {"action": "redelivered", "task": message.task, "task_id": message.id}
    reason = _limit_reached(this, again)
    if reason:
        story = message._replace(attempts=again.attempts, buffer=again.buffer)
        this.bury(site, story, None, reason, spool, error=evidence.error)
        logger.error("Task %s %s is dead: %s", message.task, message.id, reason, extra=extra)
        return inflight.DEAD
    wait = wait_after_crash(again.crashes) if crashed else 0.0
    this.deliver(site, again, Outcome("retry", wait=wait), executor, spool, mule)
    logger.warning(
        "Task %s %s: %s; it runs again %s",
        message.task,
        message.id,
        evidence.error,
        f"in {wait:g} s" if wait else "at once",
        extra=extra,
    )
    return inflight.AGAIN


def _was_interrupted(this: engine.Engine, site: Site, record: Record) -> bool:
    """Tell a stop or reload of the server from a death of its process alone, or of everything."""
    if record.marked_at >= record.started_at - _MERCY_S:
        return True  # this very process was told to end
    here = this.server
    if not isinstance(here, Uwsgi):
        return False
    instance = inflight.Instance(here.master, here.started_on)
    if record.instance == instance:
        return False
    if record.instance.master == here.master and here.is_a_reload:
        return True
    return site.inflight.stopped_at(record.instance) >= record.started_at


def _evidence(this: engine.Engine, message: Message, record: Record, crashed: bool) -> Attempt:
    now = time.time()
    error = "its process died" if crashed else "the server was stopped or reloaded"
    spec = engine.registry.specs.get(message.task)
    limits = message.limits or (spec.limits if spec else None)
    if crashed and limits and limits.timeout and now - record.started_at >= limits.timeout:
        error = f"its process was killed: it ran longer than timeout={limits.timeout:g} s"
    elif crashed and isinstance(this.server, Uwsgi):
        harakiri = this.server.spooler_harakiri()
        if harakiri and now - record.started_at >= harakiri:
            error = f"its process was killed: it ran longer than spooler-harakiri={harakiri} s"
    return Attempt(message.attempt, record.started_at, now, record.pid, error)


def _buffer(site: Site, message: Message) -> bytes:
    saved = site.store.checkpoint(message.id) if site.has_store() else None
    return message.buffer if saved is None else saved


def _limit_reached(this: engine.Engine, message: Message) -> str:
    spec = engine.registry.specs.get(message.task)
    most = (spec.max_crashes if spec else None) or this.settings.max_crashes
    if message.crashes >= most:
        return f"its process died {message.crashes} times (max_crashes={most})"
    most = this.settings.max_interruptions
    if message.interruptions >= most:
        return f"it was interrupted {message.interruptions} times (max_interruptions={most})"
    return ""


def forget_lost_files(site: Site, spools: Sequence[str]) -> None:
    """Forget records of dead processes whose files are gone, and files that were passed over."""
    now = time.time()
    for record in site.inflight.records():
        if record.kind != inflight.SPOOLER or record.state != inflight.BEGUN:
            continue
        old = record.started_at < now - _LOST_AFTER_S
        if old and not _may_come(site, record, spools) and not site.inflight.is_alive(record):
            site.inflight.clear(record)
    for ident, delivery, path in site.store.passed_over():
        with contextlib.suppress(OSError):
            os.unlink(path)  # its name is never used again
        if not os.path.lexists(path):
            site.store.forget_passed_over(ident)
            site.inflight.note_over(ident, delivery, inflight.AGAIN)


def _may_come(site: Site, record: Record, spools: Sequence[str]) -> bool:
    """Tell whether the delivery of a record lies in a spool, or may enter one."""
    stands = site.store.stands_at(record.id)
    if stands is not None and stands[0] == record.delivery and stands[1] != _FINAL:
        return True
    name = to_spool.file_name(record.id, record.delivery)
    return any(os.path.exists(os.path.join(spool, name)) for spool in spools)


def recover_mules(this: engine.Engine, site: Site) -> None:
    """Let what dead mules had in hand run again, or bury it."""
    for record in site.inflight.records():
        if record.kind != inflight.MULE or record.state != inflight.BEGUN:
            continue
        if site.inflight.is_alive(record):
            continue
        try:
            message = wire.unpack(site.inflight.hand_of(record), site.signer)
        except (WireError, OSError) as error:
            logger.error("What mule %d had in hand can't be read: %s", record.number, error)
            site.inflight.clear(record)
            continue
        over = site.inflight.over_at(record.id)
        is_over = over is not None and over[0] >= record.delivery  # it died right after noting that
        if (message.id, message.delivery) == (record.id, record.delivery) and not is_over:
            there = site.home.announced_mules(this.server.incarnation)
            mule = record.number if record.number in there else None
            deliver_again(this, site, message, record, TaskExecutor.MULE, "", mule)
        else:
            site.inflight.clear(record)
