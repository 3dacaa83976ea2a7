"""A process that takes messages, a spooler or a mule: what it does around each of them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import time

from . import engine, inflight, letters, recovery
from .errors import HomeError
from .executors import spooler as to_spool
from .loglines import LogLines
from .model import SPOOL_OK, SPOOL_RETRY, Message, TaskExecutor
from .recycling import Recycler
from .server import Uwsgi
from .site import Site

logger = logging.getLogger(__name__)

_HARAKIRI_MARGIN_S = 2.0
_MOST_UNSETTLED = 50
_recycler: list[Recycler] = []
"""The recycler of this process, from its start on."""


def instance_of(here: Uwsgi) -> inflight.Instance:
    """Return which start of the server this is."""
    return inflight.Instance(here.master, here.started_on)


def start(this: engine.Engine, site: Site, here: Uwsgi, kind: str) -> None:
    """Take a record for what this process will have in hand."""
    which = inflight.MULE if kind == "mule" else inflight.SPOOLER
    site.inflight.claim(which, here.number(), instance_of(here))
    if site.inflight.place is None:
        logger.error("There is no room to note what this process has in hand: %s", site.home.path)
    recovery.load_passed_over(site)
    site.history.journal.begin(site.inflight.place)
    with contextlib.suppress(HomeError):  # the disk is full: nobody is woken, or stopped softly
        site.waits.open()
        site.board.open()
    _let_stop(this, site)
    if kind == "spooler":
        with contextlib.suppress(ValueError):  # a second application's interpreter may not
            signal.signal(signal.SIGHUP, lambda number, frame: site.inflight.mark())
    _recycler[:] = [Recycler(this.settings, site.inflight, at_once=kind == "mule")]


def _let_stop(this: engine.Engine, site: Site) -> None:
    """Let tasks of this process be stopped from outside, and their last log lines be kept."""

    def asked(ident: str, delivery: int) -> bool:
        place = site.inflight.place
        return place is not None and bool(site.board.is_asked_to_stop(place, ident, delivery))

    lines = LogLines(this.settings.keep_logs)
    if this.settings.keep_logs and this.settings.history:
        lines.install()
    with contextlib.suppress(ValueError):  # a second application's interpreter may not
        this.stopper.install(asked, lines)


def end_now(reason: str) -> None:
    """End this process, which has nothing in hand yet; uWSGI starts another one."""
    for recycler in _recycler:
        recycler.end(reason)
        recycler.end_now()


def end_if_due() -> None:
    """End this spooler where it has to end; it has nothing in hand yet."""
    for recycler in _recycler:
        if recycler.reason:
            recycler.end_now()


def scan_again(this: engine.Engine) -> None:
    """Scan once more after this scan: a file came while this spooler was in its handler."""
    if isinstance(this.server, Uwsgi):
        this.server.scan_again()


def may_take(this: engine.Engine, site: Site, spool: str) -> bool:
    """Tell whether this spooler may take another task; it waits here while taking is paused.

    A file that is given back would be looked at again at each scan, and count as a task.
    """
    if site.home.is_paused(spool):
        here = this.server
        harakiri = here.spooler_harakiri() if isinstance(here, Uwsgi) else 0
        longest = max(1.0, harakiri - _HARAKIRI_MARGIN_S) if harakiri else 1e9
        if not site.home.wait_resumed(longest, spool):
            return False
    if this.unsettled:
        try:
            this.settle_again()
        except Exception:
            logger.exception("What ran can't be written down yet")
            return len(this.unsettled) < _MOST_UNSETTLED
    return True


def take(this: engine.Engine, site: Site, message: Message, spool: str, path: str) -> int:
    """Run the message of a spool file, if it is to run, now and here.

    Returns:
        What uWSGI is told about its file.
    """
    if message.id in this.unsettled:
        return SPOOL_RETRY
    if (message.id, message.delivery) in this.settled_late:
        this.settled_late.discard((message.id, message.delivery))
        return SPOOL_OK  # it ran while it couldn't be written down
    if site.inflight.knows(message.id) or message.id in recovery.passed_over:
        answer = recovery.look(this, site, message, spool, path)
        if answer is not None:
            return answer
    if message.at and message.at > time.time():
        again = message._replace(delivery=message.delivery + 1)
        site.wait(again, message.at, TaskExecutor.SPOOLER, spool)
        site.home.wake_timekeeper_for(message.at)
    elif message.stored and site.is_superseded(message):
        this.pump_if_any(site, spool)  # the process that ended it may have died before it pumped
    elif message.expires_at and message.expires_at <= time.time():
        this.expire(site, message, TaskExecutor.SPOOLER, spool)
    else:
        return _process(this, site, message, spool, path)
    return SPOOL_OK


def _process(this: engine.Engine, site: Site, message: Message, spool: str, path: str) -> int:
    to_spool.hold(path)
    outcome = None
    try:
        outcome = this.process(message, TaskExecutor.SPOOLER, spool)
    finally:
        to_spool.hold("")
        if outcome is not engine.PAUSED:
            after_task(this, path if outcome is not None else "")
    if outcome is not engine.PAUSED:
        return SPOOL_OK
    # it may be cancelled meanwhile: everything is looked at anew
    return take(this, site, message, spool, path) if may_take(this, site, spool) else SPOOL_RETRY


def put_again(this: engine.Engine, site: Site, message: Message, content: bytes, spool: str) -> int:
    """Put a message into a file of its own name; the one that it came in is done with."""
    sync = message.on_disk
    to_spool.submit_once(spool, message.id, message.delivery, content, sync=sync)
    this.wake(site, spool)
    return SPOOL_OK


def keep_too_big(this: engine.Engine, site: Site, path: str, size: int) -> None:
    """Keep a file that is larger than any message may be, without reading it again."""
    ident = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:36]
    most = this.settings.max_message_bytes
    error = f"{size} bytes, max_message_bytes allows {most}"
    letter = letters.unreadable(ident, "message too big", error, os.path.dirname(path))
    site.letters.keep_file(letter, path, move=False)
    logger.error(
        "The message in %r didn't run and is kept as dead letter %s: %s", path, ident, error
    )


def after_task(this: engine.Engine, path: str = "") -> None:
    """Put back what a task changed in this process, but for what an import did."""
    for recycler in _recycler:
        if this.has_imported:
            this.has_imported = False
            recycler.accept()
        recycler.after_task(path)
