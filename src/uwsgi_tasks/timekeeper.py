"""Who keeps time: one thread per home, in one elected process.

It sleeps until the next due moment or until something new waits, moves due messages on, and fires
due schedules. Election is a record lock on a file of the home: when the process dies, the kernel
gives the lock to the next candidate, which was blocked on it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import threading
import time

from . import cancelling, engine, lookout, record, recovery, server, sweeping
from .errors import NotAvailable
from .executors import spooler as to_spool
from .home import ACTIVE, LOOK
from .site import Site

logger = logging.getLogger(__name__)

_LONGEST_SLEEP_S = 60.0
_PRIORITIES_LOOK_S = 1.0
_SWEEP_EVERY_S = 50.0
_PRUNE_EVERY_S = 300.0
_AFTER_ERROR_S = 1.0
_PROMOTING_S = 0.5
_SELECTABLE = 1024


class Timekeeper:
    """The thread that keeps time for a home.

    Life: started in every process that may hold the office; blocked until the lock is its own; then
    it works until the process ends.

    Args:
        this: The process's engine.
        site: The home.
        signals: uWSGI signal number per worker target, registered in the master.
    """

    def __init__(self, this: engine.Engine, site: Site, signals: dict[str, int]) -> None:
        self.engine = this
        self.site = site
        from .firing import Firing  # the other processes go without

        self.firing = Firing(this, site, signals)
        self._swept_at = self._pruned_at = 0.0
        self._large: set[str] = set()
        self._lookout = lookout.Lookout(this, site)
        self._look_at = 0.0
        self._told: tuple[object, ...] = ()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._work, name="uwsgi_tasks timekeeper", daemon=True).start()

    def _work(self) -> None:
        # a signal that wakes the spooler has to reach its main thread
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._took_office():
            time.sleep(_AFTER_ERROR_S)
        self.site.home.resume_after_reload(self.engine.server.incarnation)
        self.site.home.note_activity()
        until, told = 0.0, LOOK
        while self._holds_office():
            now = time.time()
            if until <= now or told.strip(ACTIVE):
                self.site.home.plan_look(math.inf)  # who lets something wait meanwhile tells it
                until = time.time() + self._tick_safely()
                self.site.home.plan_look(until)
            self._look_out(now)
            told = self._sleep(min(until, self._look_at) - time.time())
            if told.strip(ACTIVE):
                self._hear(told)
            elif told:
                self._look_at = time.time() + lookout.LOOK_S

    def _took_office(self) -> bool:
        """Wait for the office; False where it can't be waited for, as without descriptors."""
        try:
            self._lock = self.site.home.lock_timekeeper()
            self._fifo = self.site.home.open_fifo()
        except OSError:
            logger.exception("The timekeeper can't begin; it tries again")
            return False
        return True

    def _holds_office(self) -> bool:
        """Tell whether the lock and the FIFO are still ours.

        A task that closed every descriptor gave the lock away, and their numbers, with those of the
        store, may stand for other files by now: this thread touches none of them any more.
        """
        home = self.site.home
        try:
            return _is_of(self._lock, home.file("timekeeper.lock")) and _is_of(
                self._fifo, home.file("wake")
            )
        except OSError:
            return home.is_replaced()  # the tick ends this process

    def _sleep(self, seconds: float) -> bytes:
        """Sleep until something is told, to the microsecond; return that."""
        seconds = max(0.0, seconds)
        try:
            return self._listen(seconds)
        except OSError:  # a task lowered RLIMIT_NOFILE below what is watched, or closed it
            time.sleep(min(seconds, _AFTER_ERROR_S))
            return LOOK

    def _listen(self, seconds: float) -> bytes:
        if self._fifo < _SELECTABLE:
            is_told = bool(select.select([self._fifo], [], [], seconds)[0])
        else:
            waiter = select.poll()  # to the millisecond
            waiter.register(self._fifo, select.POLLIN)
            is_told = bool(waiter.poll(math.ceil(seconds * 1000)))
        if is_told and self._holds_office():
            with contextlib.suppress(BlockingIOError):
                return os.read(self._fifo, 65536)
        return b""

    def _hear(self, told: bytes) -> None:
        self._look_at = time.time() + lookout.LOOK_S
        if told.strip(LOOK + ACTIVE):  # somebody who can't wake the spoolers wrote a file
            self._wake_spoolers()

    def _look_out(self, now: float) -> None:
        if self._look_at <= now:
            try:
                goes_on = self._lookout.look(now)
            except OSError:
                logger.exception("The timekeeper can't look into the spools; it tries again")
                goes_on = True
            self._look_at = time.time() + lookout.LOOK_S if goes_on else math.inf

    def _tick_safely(self) -> float:
        try:
            return self.tick(time.time())
        except Exception:  # a full disk or a removed directory must not end timekeeping
            logger.exception("The timekeeper failed; it tries again")
            return _AFTER_ERROR_S

    def _wake_spoolers(self) -> None:
        for spool in self.engine.server.own_spools():
            self.engine.wake(self.site, spool)

    def tick(self, now: float) -> float:
        """Do what is due.

        Returns:
            Seconds until something is due next.
        """
        if self.site.home.is_replaced():
            logger.error("The home %s was removed: this process ends", self.site.home.path)
            os.kill(os.getpid(), signal.SIGTERM)
            return _AFTER_ERROR_S
        store = self.site.store
        recovery.recover_mules(self.engine, self.site)
        self._begin_incarnation()
        self.firing.fire_due(now)  # what fires waits, and moves on at once
        longest = _LONGEST_SLEEP_S if self._promote(now) else 0.0
        for spool in store.spools_with_priorities():
            self.engine.pump(self.site, spool, swap=False)
            longest = min(longest, _PRIORITIES_LOOK_S)  # who was to pump may have died
        cancelling.pass_stops_on(self.site)
        longest = min(longest, self._keep_house(now))
        moments = [m for m in (store.next_due(), store.next_schedule()) if m is not None]
        return max(0.0, min([*moments, now + longest]) - time.time())

    def _keep_house(self, now: float) -> float:
        """Do what may fail and come later; return seconds until it is due again."""
        try:
            self._tell()
            self._clean(now)
            return self._tend(now)
        except Exception:  # a full disk mustn't keep tasks from their moment
            if not self.site.home.is_replaced():  # else the next tick ends this process
                logger.exception("The timekeeper can't keep house; it tries again")
            return _AFTER_ERROR_S

    def _begin_incarnation(self) -> None:
        home, incarnation = self.site.home, self.engine.server.incarnation
        if not home.is_timed(incarnation):
            self.site.store.send_to_mules_again()
            home.note_timed(incarnation)

    def _promote(self, now: float) -> bool:
        """Move what is due, waking for each batch; False if there is more than a moment's work."""
        first = next(iter(self.engine.server.own_spools()), "")
        deadline, more = time.monotonic() + _PROMOTING_S, True
        while more and time.monotonic() < deadline:
            spools, more = self.site.promote_batch(now, self._send, first)
            for spool in spools:
                self.engine.wake(self.site, spool)
        return not more

    def _tell(self) -> None:
        """Leave the server's record; its spoolers and mules come one after the other."""
        here, home = self.engine.server, self.site.home
        if isinstance(here, server.Uwsgi) and home.durable:
            pids = [here.spooler_pids(spool) for spool in here.own_spools()]
            told = (*map(len, pids), *home.announced_mules(here.incarnation))
            if told != self._told:
                record.write(home, here, self.engine.settings)
                self._told = told

    def _tend(self, now: float) -> float:
        """Care for the history; return seconds until that is due again."""
        chosen = self.engine.settings
        if not chosen.history:
            return _LONGEST_SLEEP_S
        return self.site.history.tend(now, chosen.history_max_age, chosen.history_max_count)

    def _clean(self, now: float) -> None:
        """Move away what nobody may run, and drop what is kept no longer."""
        spools = self.engine.server.own_spools()
        if now - self._swept_at > _SWEEP_EVERY_S:
            self._swept_at = now
            most = self.engine.settings.max_message_bytes + sweeping.OVERHEAD
            for spool in spools:
                with contextlib.suppress(OSError):
                    sweeping.sweep(self.site, spool, most)
        if now - self._pruned_at > _PRUNE_EVERY_S:
            self._pruned_at = now
            self.site.store.prune(now - engine.TOMBSTONE_S)
            self.site.prune_letters()
            self.site.waits.sweep()
            recovery.forget_lost_files(self.site, spools)
            self.site.home.sweep(now - engine.TOMBSTONE_S)
            for spool in spools:
                with contextlib.suppress(OSError):
                    to_spool.sweep(spool)
                    if spool not in self._large and sweeping.tell_of_size(spool):
                        self._large.add(spool)

    def _send(self, envelope: bytes, mule: int | str | None) -> bool:
        here = self.engine.server
        if not isinstance(here, server.Uwsgi) or not here.has_mules():
            raise NotAvailable("there is no mule any more")
        try:
            return here.send_to_mule(envelope, mule)
        except ValueError as error:
            if isinstance(mule, str):
                self.firing.targets.no_farms.add(mule)
            raise NotAvailable(f"there is no mule or farm {mule!r} any more") from error


def _is_of(descriptor: int, path: str) -> bool:
    """Tell whether a descriptor is that of a file."""
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
