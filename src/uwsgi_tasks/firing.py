"""What fires schedules: a row that is due becomes messages, each exactly once.

In one transaction the row advances and its message is written into the waiting place (for a target
of workers into the firings). Only then it moves on, so that a death in between neither loses nor
doubles it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from random import uniform
from typing import TYPE_CHECKING

from . import engine, inflight, paths, schedule, server, timers, wire
from .errors import UwsgiTasksError
from .executors import spooler as to_spool
from .model import (
    DEFAULT_PRIORITY,
    Message,
    Placement,
    Schedule,
    ScheduleOptions,
    TaskExecutor,
    new_id,
)
from .site import Site
from .targets import EVERYBODY, Place, Targets

if TYPE_CHECKING:
    from .store import Standing

logger = logging.getLogger(__name__)

MULE_LOOK_S = 0.1
_BATCH = 1000
_LONGEST_LOOK_S = 5.0


class Firing:
    """The part of the timekeeper that fires schedules.

    Args:
        this: The process's engine.
        site: The home.
        signals: uWSGI signal number per target of workers, registered in the master.
    """

    def __init__(self, this: engine.Engine, site: Site, signals: dict[str, int]) -> None:
        self.engine = this
        self.site = site
        self.targets = Targets(this, site, signals)
        self._broken: set[str] = set()
        self._looked_at = float("inf")
        self._modules = 0
        self._handed: list[tuple[Message, Placement]] = []
        self._flush = False

    def fire_due(self, now: float) -> None:
        """Fire what is due.

        Raises:
            Exception: It can't be written down; nothing fired, and it can be tried again.
        """
        self._retire()
        if now < self._looked_at:
            self._set_back(now)
        self._looked_at = now
        while True:
            next_at = self.site.store.next_schedule()
            if next_at is None or next_at > now or self._fire_some(now) < _BATCH:
                break
        self.targets.raise_signals()

    def _fire_some(self, now: float) -> int:
        """Fire what is due, up to a number, in one transaction; return how many rows that were."""
        store = self.site.store
        self._handed, self._flush = [], False
        with store.transaction():
            asked = [self._fire_asked(row, now) for row, _ in store.asked_schedules(_BATCH)]
            store.advance(asked)
            due = store.due_schedules(now, _BATCH)
            store.advance([self._fire(row, standing, now) for row, standing in due])
        if self._flush:
            store.flush()
        for message, placement in self._handed:
            self._hand_over(message, placement)
        return len(due)

    def _fire(self, row: Schedule, standing: Standing | None, now: float) -> Schedule:
        """Submit what a row that is due stands for; return the row as it is afterwards."""
        if self.targets.waits_for_a_mule(row):
            return row._replace(next_at=now + MULE_LOOK_S)
        assert row.moment is not None
        assert row.next_at is not None
        rule, options = _rule(row.rule), _options(row.options)
        due = schedule.judge(rule, row.moment, row.next_at, now, options.missed, options.end)
        if options.overlap != "allow" and due.fires and self._is_pending(row, standing, now):
            if options.overlap == "queue":  # it waits, and no other one behind it
                wait = max(MULE_LOOK_S, min((now - row.moment) / 10, _LONGEST_LOOK_S))
                return row._replace(next_at=now + wait)
            return _advanced(row, due.next_moment, options, skipped=due.fires, missed=due.missed)
        fires = due.fires if row.iterations is None else min(due.fires, row.iterations)
        if due.missed and fires == schedule.MOST_MADE_UP:
            logger.warning("%s: %d missed moments aren't made up for", row.name, due.missed)
        ids = self._submit(row, options, fires, now)
        fired = len(ids) if row.target != "mules" else min(len(ids), fires)
        row = _advanced(row, due.next_moment, options, missed=due.missed, fired=fired)
        return row._replace(last_at=now, last_id=ids[-1]) if ids else row

    def _fire_asked(self, row: Schedule, now: float) -> Schedule:
        ids = self._submit(row, _options(row.options), 1, now, row.asked_id)
        if not ids:
            return row._replace(asked_id="")
        return row._replace(asked_id="", fired=row.fired + 1, last_at=now, last_id=ids[-1])

    # where the last one is

    def _is_pending(self, row: Schedule, standing: Standing | None, now: float) -> bool:
        """Tell whether the last firing isn't over.

        No spool file is opened for that: this is a thread of a spooler, whose lock on the file that
        it runs would be lost (``fcntl``).
        """
        if not row.last_id:
            return False
        if standing is None:
            return self._is_in_hand(row.last_id) or self._is_with_a_worker(row)
        from .store import FINAL, IN_SPOOL

        if standing.state in (IN_SPOOL, FINAL):
            over = self.site.inflight.over_at(row.last_id)
            if standing.state == FINAL or (over is not None and over[0] >= standing.delivery):
                return False
            name = to_spool.file_name(row.last_id, standing.delivery)
            in_queue = standing.executor == TaskExecutor.MULE  # until it is over
            return in_queue or os.path.exists(f"{standing.spool}/{name}")
        return True

    def _is_in_hand(self, ident: str) -> bool:
        found = self.site.inflight
        return found.knows(ident) and any(
            record.id == ident and record.state == inflight.BEGUN for record in found.records()
        )

    def _is_with_a_worker(self, row: Schedule) -> bool:
        if row.target in EVERYBODY:
            return False
        pid = self.site.store.taker(row.last_id)
        return pid is not None and (pid == 0 or os.path.exists(f"/proc/{pid}"))

    # where the next one goes

    def _submit(
        self, row: Schedule, options: ScheduleOptions, number: int, now: float, ident: str = ""
    ) -> list[str]:
        """Write messages of a schedule down; return their ids, none where it can't run."""
        if not number:
            return []
        try:
            template = wire.unpack(row.envelope, self.site.signer)
            found = self.targets.places(row, options, template)
        except (UwsgiTasksError, OSError) as error:
            if row.name not in self._broken:
                self._broken.add(row.name)
                logger.error("The schedule %s can't run in %r: %s", row.name, row.target, error)
            return []
        messages = [_message(template, options, now) for _ in range(number * len(found))]
        if ident:
            messages[-1] = messages[-1]._replace(id=ident, chain=ident)
        for number, message in enumerate(messages):
            self._put(found[number % len(found)], message, now)
        return [message.id for message in messages]

    def _put(self, place: Place, message: Message, now: float) -> None:
        if place.elsewhere is not None:
            self._handed.append((message, place.elsewhere))
            return
        self.site.note_package(message.task)
        if place.workers:
            envelope = wire.pack(message, self.site.signer)
            self.site.store.add_firing(place.workers, message.id, envelope)
            return
        if place.executor == TaskExecutor.SPOOLER and self.site.home.priorities_wait():
            priority = DEFAULT_PRIORITY if message.priority is None else message.priority
            message = message._replace(priority=priority)
        self._flush |= message.on_disk
        self.site.wait(message, now, place.executor, place.spool, place.mule)

    def _hand_over(self, message: Message, placement: Placement) -> None:
        try:
            self.engine.submit(message, placement)
        except (UwsgiTasksError, OSError) as error:
            logger.error("%s wasn't submitted to %s: %s", message.task, placement.spooler, error)

    # what the code and the clock change

    def _set_back(self, now: float) -> None:
        """Bring periods forward whose clock was set back; a cron waits for its next moment."""
        changed = []
        for row in self.site.store.active_schedules():
            assert row.moment is not None
            moment = schedule.after_step_back(_rule(row.rule), row.moment, now)
            if moment != row.moment and _options(row.options).start <= now:
                changed.append(row._replace(moment=moment, next_at=moment))
        if changed:
            with self.site.store.transaction():
                self.site.store.advance(changed)

    def _retire(self) -> None:
        """Forget what the code doesn't declare any more, whenever something was imported."""
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            retire(self.site, self.engine.server)


def retire(site: Site, here: server.Server) -> None:
    """Forget schedules that only an earlier start of the server declared.

    A module that isn't imported here says nothing of its schedules: they go on, unless it is gone.
    A lazy one that a call started ends with its server.
    """
    gone = [
        row.name
        for row in site.store.outdated_schedules(here.incarnation)
        if (_is_over(row.incarnation, here) if _options(row.options).lazy else _is_gone(row))
    ]
    if gone:
        site.store.remove_schedules(gone)
        logger.info("Schedules that the code doesn't declare any more: %s", ", ".join(gone))


def _is_gone(row: Schedule) -> bool:
    if row.name in timers.declared:
        return False
    module = sys.modules.get(row.module)
    if module is not None:
        return not getattr(getattr(module, "__spec__", None), "_initializing", False)
    return not paths.is_findable(row.module)


def _is_over(incarnation: str, here: server.Server) -> bool:
    """Tell whether another start of a server has ended: it was reloaded, or its master is dead."""
    master = incarnation.partition("-")[0]
    same = isinstance(here, server.Uwsgi) and master == str(here.master)
    return same or not os.path.exists(f"/proc/{master}")


def _advanced(
    row: Schedule,
    moment: float | None,
    options: ScheduleOptions,
    *,
    fired: int = 0,
    missed: int = 0,
    skipped: int = 0,
) -> Schedule:
    left = None if row.iterations is None else max(0, row.iterations - fired)
    jitter = uniform(0, options.jitter) if options.jitter else 0.0  # noqa: S311  no secret
    return row._replace(
        moment=moment,
        next_at=None if moment is None else moment + jitter,
        iterations=left,
        active=left != 0 and moment is not None,
        fired=row.fired + fired,
        missed=row.missed + missed,
        skipped=row.skipped + skipped,
    )


def _message(template: Message, options: ScheduleOptions, now: float) -> Message:
    ident = new_id()
    return template._replace(
        id=ident,
        chain=ident,
        created_at=now,
        expires_at=now + options.expires if options.expires else template.expires_at,
    )


@functools.lru_cache(maxsize=16384)
def _rule(text: str) -> schedule.Rule:
    return schedule.load_rule(json.loads(text))


@functools.lru_cache(maxsize=16384)
def _options(text: str) -> ScheduleOptions:
    return ScheduleOptions(*json.loads(text))
