"""The store: what waits, what is scheduled, what ended. The only package that knows SQL.

One SQLite database per home, in WAL mode; one connection per thread and process, opened after the
fork. ``synchronous=NORMAL``: what was committed survives the death of every process.
"""

from __future__ import annotations

from .history import HistoryTable
from .schedules import Firing, Schedules, Standing
from .waiting import FINAL, IN_SPOOL, READY, WAITING, Waiting, WaitingPlace

__all__ = ["FINAL", "IN_SPOOL", "READY", "WAITING", "Firing", "Standing", "Store", "Waiting"]


class Store(WaitingPlace, Schedules, HistoryTable):
    """The database of a home, whole."""
