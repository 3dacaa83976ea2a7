"""Where a schedule runs: its target becomes a spool, a mule, or a signal to workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from . import engine, places, server, wire
from .errors import NotAvailable, OptionValueError, UwsgiTasksError, WireError
from .executors import network
from .model import Message, Placement, Schedule, ScheduleOptions, TaskExecutor, new_id
from .site import Site

logger = logging.getLogger(__name__)

EVERYBODY = ("workers", "active-workers")
"""The targets that mean each of the workers."""
_MULE_ROOM = server.MULE_LIMIT - 4096
_ORDERS: dict[int, tuple[TaskExecutor, ...]] = {
    TaskExecutor.SPOOLER: (TaskExecutor.SPOOLER, TaskExecutor.MULE),
    TaskExecutor.MULE: (TaskExecutor.MULE, TaskExecutor.SPOOLER),
}
signals: dict[str, int] = {}
"""uWSGI's signal per target of workers, registered in the master and inherited over the fork."""
on_added: list[Callable[[], None]] = []
"""Told when a schedule was added; the handlers see to it that somebody keeps time."""


class CantRunError(UwsgiTasksError):
    """The target of a schedule isn't there; the text says what is to do."""


class Place(NamedTuple):
    """Where a firing goes: a spool, a mule, the workers of a target, or another server."""

    executor: int
    spool: str = ""
    mule: int | str | None = None
    workers: str = ""
    elsewhere: Placement | None = None


class Targets:
    """What the targets of schedules stand for in this process.

    Args:
        this: The process's engine.
        site: The home.
        signals: uWSGI signal number per target of workers, registered in the master.
    """

    def __init__(self, this: engine.Engine, site: Site, signals: dict[str, int]) -> None:
        self.engine = this
        self.site = site
        self.signals = signals
        self.no_farms: set[str] = set()
        self._raised = 0

    def places(self, row: Schedule, options: ScheduleOptions, message: Message) -> list[Place]:
        """Return where a firing goes; several mules where each of them is meant."""
        target = row.target
        if not target:
            return [self._default_place(options, message)]
        if server.is_worker_target(target):
            return [self._workers(target)]
        if target == "spooler":
            return [self._placed(TaskExecutor.SPOOLER, options, message)]
        if target == "mules":
            numbers = self.site.home.announced_mules(self.engine.server.incarnation)
            if not numbers:
                raise CantRunError("there is no mule: add `mule = true` to uwsgi.ini")
            return [Place(TaskExecutor.MULE, mule=number) for number in numbers]
        options = options._replace(mule=_mule_of(target))
        return [self._placed(TaskExecutor.MULE, options, message)]

    def _default_place(self, options: ScheduleOptions, message: Message) -> Place:
        asked = options.executor
        if asked == TaskExecutor.AUTO:
            memory = options.durability == "memory"
            asked = TaskExecutor[self.engine.settings.executor.upper()]
            asked = TaskExecutor.MULE if memory and asked == TaskExecutor.AUTO else asked
        order = _ORDERS.get(asked, _ORDERS[TaskExecutor.SPOOLER])
        for executor in order[:1] if options.strict else order:
            try:
                return self._placed(executor, options, message)
            except CantRunError:
                continue
        return self._workers("worker")

    def _placed(self, executor: int, options: ScheduleOptions, message: Message) -> Place:
        """Return a place of an executor.

        Raises:
            CantRunError: It isn't there.
        """
        asked = Placement(executor, options.spooler, options.mule)
        if options.spooler.startswith(network.SCHEME):
            return Place(executor, elsewhere=asked)
        try:
            problem = self.engine.problem(executor, asked)
        except OptionValueError as error:
            raise CantRunError(str(error)) from None
        if executor == TaskExecutor.MULE:
            if options.mule in self.no_farms:
                problem = f"there is no farm {options.mule!r} in uwsgi.ini"
            elif len(message.payload) > _MULE_ROOM:
                problem = "its arguments are too big for a mule"
        if problem is not None:
            raise CantRunError(problem)
        if executor == TaskExecutor.MULE:
            return Place(executor, mule=options.mule)
        spool = self.engine.spool_for(message.queue, asked)
        if self.engine.require_site(spool) is not self.site:  # another instance's key signs there
            return Place(executor, elsewhere=asked._replace(spooler=spool))
        return Place(executor, spool)

    def waits_for_a_mule(self, row: Schedule) -> bool:
        """Tell whether the mule of a target may be starting still; nobody waits for it here."""
        if not row.target.startswith("mule") or server.process_age() >= places.MULE_START_S:
            return False
        home, incarnation = self.site.home, self.engine.server.incarnation
        mule = _mule_of(row.target)
        if row.target == "mules":
            return not home.announced_mules(incarnation)
        return isinstance(mule, int) and not home.is_mule_announced(mule, incarnation)

    # workers

    def _workers(self, target: str) -> Place:
        if self._signal_of(target) is None:
            raise CantRunError(
                "its signal isn't registered in the master: under lazy-apps add"
                " `shared-import = MODULE` with the module of the schedule to uwsgi.ini"
            )
        return Place(TaskExecutor.RUNTIME, workers=target)

    def _signal_of(self, target: str) -> int | None:
        here = self.engine.server
        if not isinstance(here, server.Uwsgi):
            return None
        number = self.signals.get(target)
        if number is None and target == "worker" and not here.preloaded:
            number = self.site.home.lazy_signal()
        return number

    def raise_signals(self) -> None:
        """Tell the workers of what was written down since, by a timekeeper that died included."""
        here = self.engine.server
        for target, seq in self.site.store.targets_after(self._raised):
            number = self._signal_of(target)
            if number is not None and isinstance(here, server.Uwsgi):
                here.raise_signal(number)
            self._raised = max(self._raised, seq)


def _mule_of(target: str) -> int | str | None:
    if target.startswith("farm_"):
        return target[5:]
    return int(target.removeprefix("mule").removeprefix("s") or 0) or None


def handle_signal(
    site: Site,
    target: str,
    seen: dict[str, int],
    run: Callable[[Message], None],
    since: float = 0.0,
) -> None:
    """Run what is due in this worker; signals may be lost or merged, the rows tell.

    Args:
        site: The home.
        target: The worker target whose signal arrived.
        seen: The last firing that this worker saw, per target that means every worker.
        run: Runs a message in this process.
        since: Epoch seconds at which this worker started; what fired before isn't for it.
    """
    store = site.store
    if target in EVERYBODY:
        if target not in seen:
            seen[target] = store.last_firing(since)
        while firings := store.firings_after(target, seen[target]):
            for firing in firings:
                seen[target] = firing.seq
                ident = new_id()  # each worker's run is one of its own
                _run(site, firing.envelope, run, ident)
        return
    while (taken := store.take_firing(target)) is not None:
        try:
            _run(site, taken.envelope, run)
        finally:
            store.end_firing(taken.seq)


def _run(site: Site, envelope: bytes, run: Callable[[Message], None], ident: str = "") -> None:
    try:
        message = wire.unpack(envelope, site.signer)
    except WireError as error:
        logger.error("A schedule can't run in this worker: %s", error)
        return
    run(message._replace(id=ident, chain=ident) if ident else message)


def check_target(this: engine.Engine, site: Site, target: str) -> None:
    """Refuse a target that a schedule can't have any more when the server runs.

    Raises:
        NotAvailable: It isn't there; the text says what is to do.
    """
    here = this.server
    if server.is_worker_target(target):
        known = target in signals if isinstance(here, server.Uwsgi) else True
        if target == "worker" and not here.preloaded:
            known = known or site.home.lazy_signal() is not None
        if not known:
            raise NotAvailable(
                f"target={target!r}: the master registered no signal for it at its start. There are"
                f" {', '.join(sorted(signals)) or 'none'}; declare a @timer with that target, or"
                f" choose 'worker'"
            )
    elif target.startswith(("mule", "farm_")) and here.inside and not here.has_mules():
        raise NotAvailable(f"target={target!r}: there is no mule: add `mule = true` to uwsgi.ini")
