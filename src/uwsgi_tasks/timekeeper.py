"""Who keeps time: one thread per home, in one elected process.

It sleeps until the next due moment or until something new waits, moves due messages on, and fires
due schedules. Election is a record lock on a file of the home: when the process dies, the kernel
gives the lock to the next candidate, which was blocked on it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from . import engine, places, recovery, schedule, server, sweeping, wire
from .errors import NotAvailable, UwsgiTasksError
from .executors import spooler as to_spool
from .model import Message, Placement, Schedule, TaskExecutor, new_id
from .site import Site

logger = logging.getLogger(__name__)

_LONGEST_SLEEP_S = 60.0
_PRIORITIES_LOOK_S = 1.0
_MULE_LOOK_S = 0.1
_SWEEP_EVERY_S = 50.0
_PRUNE_EVERY_S = 300.0
_AFTER_ERROR_S = 1.0


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
        self.signals = signals
        self._swept_at = self._pruned_at = 0.0
        self._broken: set[str] = set()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._work, name="uwsgi_tasks timekeeper", daemon=True).start()

    def _work(self) -> None:
        # a signal that wakes the spooler has to reach its main thread
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._lock = self.site.home.lock_timekeeper()
        fifo = self.site.home.open_fifo()
        waiter = select.poll()
        waiter.register(fifo, select.POLLIN)
        self.site.home.resume_after_reload(self.engine.server.incarnation)
        self.site.store.retire_schedules(self.engine.server.incarnation)
        while True:
            seconds = self._tick_safely()
            if waiter.poll(max(0, round(seconds * 1000 + 0.5))):
                with contextlib.suppress(BlockingIOError):
                    os.read(fifo, 65536)
                self._wake_spoolers()

    def _tick_safely(self) -> float:
        try:
            return self.tick(time.time())
        except Exception:  # a full disk or a removed directory must not end timekeeping
            logger.exception("The timekeeper failed; it tries again")
            return _AFTER_ERROR_S

    def _wake_spoolers(self) -> None:
        """Pass a wake-up on: another instance or a script wrote into one of our spools."""
        if self.site.home.is_paused():
            return  # a scan would only log and pass over every file; ``resume`` wakes
        for spool in self.engine.server.own_spools():
            self.engine.server.wake(spool)

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
        self._clean(now)
        first = next(iter(self.engine.server.own_spools()), "")
        for spool in self.site.promote(now, self._send, first):
            self.engine.wake(self.site, spool)
        longest = _LONGEST_SLEEP_S
        for spool in store.spools_with_priorities():
            self.engine.pump(self.site, spool, swap=False)
            longest = _PRIORITIES_LOOK_S  # who was to pump may have died
        for row in store.due_schedules(now):
            self._fire(row, now)
        moments = [m for m in (store.next_due(), store.next_schedule()) if m is not None]
        return max(0.0, min([*moments, now + longest]) - time.time())

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
            recovery.forget_lost_files(self.site, spools)
            self.site.home.sweep(now - engine.TOMBSTONE_S)
            for spool in spools:
                with contextlib.suppress(OSError):
                    to_spool.sweep(spool)

    def _send(self, envelope: bytes, mule: int | str | None) -> bool:
        here = self.engine.server
        if not isinstance(here, server.Uwsgi) or not here.has_mules():
            raise NotAvailable("there is no mule any more")
        try:
            return here.send_to_mule(envelope, mule)
        except ValueError as error:
            raise NotAvailable(f"there is no mule or farm {mule!r} any more") from error

    # schedules

    def _fire(self, row: Schedule, now: float) -> None:
        if self._waits_for_a_mule(row):
            self.site.store.put_off(row.name, now + _MULE_LOOK_S)
            return
        values = json.loads(row.rule)
        rule = schedule.load_rule(values)
        self.site.store.advance(row, rule.next_after(now, row.next_at))
        try:
            self._deliver(row)
        except (UwsgiTasksError, OSError) as error:
            if row.name not in self._broken:
                self._broken.add(row.name)
                logger.error("The schedule %s can't run in %r: %s", row.name, row.target, error)

    def _waits_for_a_mule(self, row: Schedule) -> bool:
        """Tell whether the mule of a target may be starting still; nobody waits for it here."""
        mule = _mule_of(row.target) if row.target.startswith("mule") else None
        return (
            isinstance(mule, int)
            and server.process_age() < places.MULE_START_S
            and not self.site.home.is_mule_announced(mule, self.engine.server.incarnation)
        )

    def _deliver(self, row: Schedule) -> None:
        target = row.target or self._default_target()
        if target == "spooler":
            self._submit(row, Placement(TaskExecutor.SPOOLER))
        elif target == "mules":
            for number in self.site.home.announced_mules(self.engine.server.incarnation):
                self._submit(row, Placement(TaskExecutor.MULE, mule=number))
        elif server.is_worker_target(target):
            self._signal(row, target)
        else:
            self._submit(row, Placement(TaskExecutor.MULE, mule=_mule_of(target)))

    def _default_target(self) -> str:
        here = self.engine.server
        if here.own_spools():
            return "spooler"
        return "mule" if here.has_mules() and here.preloaded else "worker"

    def _submit(self, row: Schedule, placement: Placement) -> None:
        ident = new_id()
        payload = wire.dump(((row.number,), {}), "pickle")
        message = Message(ident, row.name, payload, created_at=time.time(), chain=ident)
        self.engine.submit(message, placement._replace(strict=False))

    def _signal(self, row: Schedule, target: str) -> None:
        here = self.engine.server
        number = self.signals.get(target)
        if number is None and target == "worker" and not here.preloaded:
            number = self.site.home.lazy_signal()
        if number is None or not isinstance(here, server.Uwsgi):
            raise UwsgiTasksError(
                "its signal isn't registered in the master: under lazy-apps add"
                " `shared-import = MODULE` with the module of the schedule to uwsgi.ini"
            )
        self.site.store.add_firing(target, row.name, row.number)
        here.raise_signal(number)


def _mule_of(target: str) -> int | str | None:
    if target.startswith("farm_"):
        return target[5:]
    return int(target.removeprefix("mule").removeprefix("s") or 0) or None


def handle_signal(
    this: engine.Engine,
    site: Site,
    target: str,
    seen: dict[str, int],
    run: Callable[[Message], None],
) -> None:
    """Run what is due in this worker; signals may be lost or merged, the rows tell.

    Args:
        this: The process's engine.
        site: The home.
        target: The worker target whose signal arrived.
        seen: The last firing that this worker saw, per target that means every worker.
        run: Runs a message in this process.
    """
    everybody = target in ("workers", "active-workers")
    while True:
        if everybody:
            firings = site.store.firings_after(target, seen.get(target, 0))
        else:
            taken = site.store.take_firing(target)
            firings = [] if taken is None else [taken]
        if not firings:
            return
        for firing in firings:
            seen[target] = max(firing.seq, seen.get(target, 0))
            payload = wire.dump(((firing.number,), {}), "pickle")
            run(Message(new_id(), firing.name, payload, created_at=time.time()))
