"""Steering a running server from anywhere that reaches its home: pause, resume, see who is busy."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import NamedTuple

from . import engine, runner
from .errors import NotAvailable
from .home import SPOOL
from .model import TaskExecutor
from .server import Server, Uwsgi
from .site import Site

__all__ = [
    "Queue",
    "busy",
    "counters",
    "drain",
    "pause",
    "paused",
    "queues",
    "reload",
    "resume",
]

_LOOK_S = 0.02


class Queue(NamedTuple):
    """What there is of a queue.

    Attributes:
        waiting: Tasks that wait for their time: delays and retries.
        ready: Tasks with a priority that wait for their turn.
        in_spool: Tasks in the spool directory that no spooler has in hand.
        in_hand: Tasks that run.
        paused: Whether taking them is paused, alone or with all.
    """

    waiting: int
    ready: int
    in_spool: int
    in_hand: int
    paused: bool


def pause(queue: str | None = None) -> None:
    """Take no further tasks; what runs goes on, what comes is kept.

    Args:
        queue: Pause this one alone, which has a spool directory of its own.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
        OptionValueError: The queue has no spool directory of its own.
    """
    this = engine.current()
    if queue is None:
        this.require_site().home.pause(True)
    else:
        spool = this.own_spool_of(queue)
        this.require_site(spool).home.pause_spool(this.theirs(spool), True)


def resume(queue: str | None = None) -> None:
    """Take tasks again.

    Args:
        queue: Resume this one alone; it stays paused while everything is.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
        OptionValueError: The queue has no spool directory of its own.
    """
    this = engine.current()
    if queue is None:
        site, spools = this.require_site(), this.server.own_spools()
        site.home.pause(False)
    else:
        spools = [this.own_spool_of(queue)]
        site = this.require_site(spools[0])
        site.home.pause_spool(this.theirs(spools[0]), False)
    for spool in spools:
        this.wake(site, spool)
    site.home.wake_timekeeper(SPOOL)


def paused(queue: str | None = None) -> bool:
    """Tell whether taking tasks is paused.

    Args:
        queue: Ask for this one, which has a spool directory of its own.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
        OptionValueError: The queue has no spool directory of its own.
    """
    this = engine.current()
    spool = "" if queue is None else this.own_spool_of(queue)
    return this.require_site(spool).home.is_paused(this.theirs(spool))


def queues() -> dict[str, Queue]:
    """Return what there is of each queue.

    Returns:
        Each queue that the setting ``queues`` ties to a spool directory, and ``"default"``, which
        all others count as.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    this = engine.current()
    site, spools = this.require_site(), this.spools()
    tied = {"default": spools[0] if spools else "", **this.tied_queues()}
    stored: dict[str, tuple[int, int]] = {}
    for label, (waiting, ready) in (site.store.queues() if site.has_store() else {}).items():
        name = label if label in tied else "default"
        before = stored.get(name, (0, 0))
        stored[name] = (before[0] + waiting, before[1] + ready)
    found = {}
    for name, spool in tied.items():
        there, in_hand = site.count_files(spool)
        is_paused = site.home.is_paused(this.theirs(spool))
        found[name] = Queue(*stored.get(name, (0, 0)), there - in_hand, in_hand, is_paused)
    return found


def busy() -> int:
    """Return how many tasks the spoolers and mules of this home have in hand.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    return len(engine.current().require_site().inflight.busy())


def drain(timeout: float | timedelta = 60.0) -> bool:
    """Take no further tasks, and wait until those that run have ended.

    It stays paused afterwards, until ``resume()``.

    Args:
        timeout: Seconds to wait, or a ``timedelta``.

    Returns:
        Whether nothing runs any more, but for the task that calls this.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    site = engine.current().require_site()
    if not site.home.is_paused():
        site.home.pause(True)
    return _wait_idle(site, timeout)


def _wait_idle(site: Site, timeout: float | timedelta) -> bool:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    deadline = time.monotonic() + seconds
    while any(not site.inflight.is_mine(record) for record in site.inflight.busy()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def reload(timeout: float | timedelta = 60.0, fifo: str | None = None) -> bool:
    """Reload the server when the tasks that run have ended; none is taken in between.

    Args:
        timeout: Seconds to wait for them, or a ``timedelta``.
        fifo: Path of the master's FIFO; by default ``master-fifo`` of this server, and inside of
            it ``uwsgi.reload()``.

    Returns:
        False if a task still runs: then the server isn't reloaded, and goes on taking tasks.

    Raises:
        NotAvailable: There is no home here, or no way to tell the master, or a task calls it.
    """
    this = engine.current()
    site, here = this.require_site(), this.server
    fifo = fifo or here.option("master-fifo")
    if not fifo and not isinstance(here, Uwsgi):
        raise NotAvailable("reload() needs fifo=PATH here: add `master-fifo = PATH` to uwsgi.ini")
    run = runner.current.get()
    if run is not None and run.executor != TaskExecutor.RUNTIME:
        raise NotAvailable(
            f"reload() in the task {run.message.task} would interrupt that very task, which then"
            f" starts again: call it from a worker, or from outside with fifo=PATH"
        )
    before = site.home.is_paused()
    if not before:
        site.home.pause(True, until_reload=True)
    reloads = False
    try:
        if _wait_idle(site, timeout):
            _tell_master(here, fifo)
            reloads = True
    finally:
        if not reloads and not before:
            resume()
    return reloads


def _tell_master(here: Server, fifo: str | None) -> None:
    if not fifo:
        if isinstance(here, Uwsgi):
            here.reload()
        return
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotAvailable(f"No master listens at {fifo}: {error.strerror}") from error
    with open(descriptor, "wb") as file:
        file.write(b"r")


def counters() -> dict[str, int]:
    """Return what was counted over the life of the home.

    Returns:
        ``mule_full`` (refused by a mule's queue), ``mule_rerouted`` (of those and of the too big
        ones: taken by another executor), ``dead_dropped`` (dead letters beyond the bounds),
        ``refused`` (deliveries that were over and came again), ``passed_over`` (files that can't
        be removed), ``crashed`` and ``interrupted`` (runs whose process died), ``history_lost``
        (ends that couldn't be written into the history).

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    return engine.current().require_site().home.counters()
