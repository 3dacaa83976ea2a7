"""Whether a wake-up was lost: a file lies in a spool, and its spooler sleeps.

uWSGI's spooler looks at its counter of wake-ups and then sleeps in ``epoll_wait`` (``spooler`` in
``spooler.c``); a signal that comes in between is noticed at the end of that sleep, 30 s later by
default. So the timekeeper looks after the spools for as long as tasks enter them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from . import engine, inflight
from .executors.spooler import FILE_PREFIX
from .site import Site

LOOK_S = 0.5
_WAKES = 3


class Lookout:
    """What the timekeeper looks at while there is activity.

    Args:
        this: The process's engine.
        site: The home.
    """

    def __init__(self, this: engine.Engine, site: Site) -> None:
        self.engine = this
        self.site = site
        self._woken: dict[str, int] = {}

    def look(self, now: float) -> bool:
        """Wake spoolers that sleep beside a file; tell whether to look again.

        Args:
            now: Epoch seconds.
        """
        if self.site.home.is_paused():
            return False  # resume() wakes them, and this
        if self._find(now):
            return True
        self.site.home.forget_activity()
        if self._find(now):  # it came before that was forgotten, and nobody will say so
            self.site.home.note_activity()
            return True
        return False

    def _find(self, now: float) -> bool:
        """Tell whether something is in hand or lies in a spool, and wake who should have it."""
        busy = [r for r in self.site.inflight.busy() if r.kind == inflight.SPOOLER]
        in_hand, pids = {record.id for record in busy}, {record.pid for record in busy}
        there = bool(in_hand)
        known: set[str] = set()
        for spool in self.engine.server.own_spools():
            if self.site.home.is_paused(spool):
                continue
            for path, placed_at in _files(spool, in_hand):
                known.add(path)
                if self._woken.get(path, 0) >= _WAKES:
                    continue  # uWSGI passes it over, and has its reasons
                there = True
                if placed_at <= now - LOOK_S:
                    self._wake(spool, path, pids)
                    break
        self._woken = {path: times for path, times in self._woken.items() if path in known}
        return there

    def _wake(self, spool: str, path: str, busy: set[int]) -> None:
        if not busy.issuperset(self.engine.server.spooler_pids(spool)):
            self._woken[path] = self._woken.get(path, 0) + 1
            self.engine.wake(self.site, spool)


def _files(spool: str, in_hand: set[str]) -> Iterator[tuple[str, float]]:
    """Yield path and time of the files of a spool that nobody has in hand."""
    try:
        with os.scandir(spool) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(FILE_PREFIX) and name[len(FILE_PREFIX) :][:36] not in in_hand:
                    yield entry.path, entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:  # a file has just gone, or the directory
        return
