"""Steering a running server from anywhere that reaches its home: pause, resume, see who is busy."""

from __future__ import annotations

import os

from . import engine
from .executors import spooler

__all__ = ["busy", "pause", "paused", "resume"]


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
    this = engine.current()
    site = this.require_site()
    spools = this.spools() or [os.path.dirname(site.home.path)]
    running = sum(spooler.count_running(spool) for spool in spools)
    return running + site.home.busy_mules()
