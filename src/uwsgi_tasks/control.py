"""Steering a running server from anywhere that reaches its home: pause, resume, see who is busy."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from . import engine, runner
from .errors import NotAvailable
from .model import TaskExecutor
from .server import Server, Uwsgi
from .site import Site

__all__ = ["busy", "counters", "drain", "pause", "paused", "reload", "resume"]

_LOOK_S = 0.02


def pause() -> None:
    """Take no further tasks; what runs goes on, what comes is kept.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    engine.current().require_site().home.pause(True)


def resume() -> None:
    """Take tasks again.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    this = engine.current()
    site = this.require_site()
    site.home.pause(False)
    for spool in this.server.own_spools():
        this.server.wake(spool)
    site.home.wake_timekeeper()


def paused() -> bool:
    """Tell whether taking tasks is paused.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    return engine.current().require_site().home.is_paused()


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
        be removed), ``crashed`` and ``interrupted`` (runs whose process died).

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    return engine.current().require_site().home.counters()
