"""What waits moves on: into the spool when it is due, or when it is its turn.

Every step of a move may be the last one of its process: the row tells until its transaction ends,
and whoever repeats the move finds the file there, or the row further on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import files, wire
from .errors import NotAvailable
from .executors import spooler as to_spool
from .home import Home
from .model import TaskExecutor

if TYPE_CHECKING:
    from .store import Store, Waiting

logger = logging.getLogger(__name__)

_BATCH = 128
_LONGEST_S = 0.01
"""Seconds for which a move may keep others from writing to the store."""
_LATER_S = 5.0
_QUEUE_FULL_S = 0.1
SendToMule = Callable[[bytes, "int | str | None"], bool]


class Moving:
    """The part of a site that moves what waits."""

    home: Home

    @property
    def store(self) -> Store:
        """The store of the home."""
        raise NotImplementedError

    # what is due

    def promote(self, now: float, send: SendToMule | None, spool: str = "") -> set[str]:
        """Move all that is due; see ``promote_batch``. Return the spools that got something."""
        spools: set[str] = set()
        while True:
            entered, more = self.promote_batch(now, send, spool)
            spools |= entered
            if not more:
                return spools

    def promote_batch(
        self, now: float, send: SendToMule | None, spool: str = ""
    ) -> tuple[set[str], bool]:
        """Move some of what is due to its executor; what has a priority waits for its turn now.

        Files are written before the store is locked, and get their names while it is: others that
        write to it wait for milliseconds, however much is due.

        Args:
            now: Epoch seconds.
            send: Hands an envelope to a mule, raises ``NotAvailable`` where there is no such one;
                ``None`` where that can't be done from here: those rows stay for the timekeeper.
            spool: Spool directory for what is for a mule that isn't there any more, if any.

        Returns:
            The spools that got something, and whether more may be due.
        """
        rows = self.store.due(now, _BATCH, mules=send is not None)
        entered, some_left = self._move(rows, now, send, spool)
        return entered, some_left or len(rows) == _BATCH

    def promote_one(self, ident: str, now: float) -> bool:
        """Move one message into its spool; False if it is for another, isn't due, or gone on."""
        row = self.store.waiting(ident)
        if row is None or row.due > now or row.executor == TaskExecutor.MULE:
            return False
        return bool(self._move([row], now, None, "")[0])

    def _move(
        self, rows: list[Waiting], now: float, send: SendToMule | None, spool: str
    ) -> tuple[set[str], bool]:
        if not rows:
            return set(), False
        turns = [row for row in rows if row.priority is not None]
        for_mules = [row for row in rows if row.executor == TaskExecutor.MULE]
        prepared, refused = self._prepare(
            [row for row in rows if row.priority is None and row.executor != TaskExecutor.MULE]
        )
        with self.store.transaction():
            self.store.mark_ready(turns)
            entered, some_left = self._enter(prepared)
            for row in refused:
                self.store.postpone(row.id, now + _LATER_S)
            for row in for_mules:
                if send is not None and self._send(row, now, send, spool):
                    entered.add(spool)
        return entered, some_left

    def _prepare(self, rows: list[Waiting]) -> tuple[list[tuple[Waiting, str]], list[Waiting]]:
        """Write the files of rows under names that uWSGI doesn't look at."""
        prepared, refused = [], []
        for row in rows:
            try:
                content = wire.spool_file(row.envelope)
                temporary = to_spool.prepare(
                    row.spool, row.id, row.delivery, content, sync=row.on_disk
                )
            except OSError as error:
                _log_refusal(row.spool, error)
                refused.append(row)
            else:
                prepared.append((row, temporary))
        return prepared, refused

    def _enter(self, prepared: list[tuple[Waiting, str]]) -> tuple[set[str], bool]:
        """Give files their names, and note that their rows are in the spool.

        Returns:
            The spools that got something, and whether there was no time for some.
        """
        spools, flushed = set(), set()
        deadline, is_late = time.monotonic() + _LONGEST_S, False
        for row, temporary in prepared:
            is_late = is_late or time.monotonic() > deadline
            if is_late or not self.store.mark_entered(row):
                to_spool.discard(temporary)  # the next batch has it, or it went on without us
                continue
            try:
                to_spool.enter(temporary, row.spool, row.id, row.delivery)
            except OSError as error:
                _log_refusal(row.spool, error)
                self.store.take_back(row.id, time.time() + _LATER_S)
                continue
            spools.add(row.spool)
            if row.on_disk:
                flushed.add(row.spool)
        for spool in flushed:
            files.sync_directory(spool)
        return spools, is_late

    def _send(self, row: Waiting, now: float, send: SendToMule, spool: str) -> bool:
        """Send a row to its mule; tell whether it went into the spool instead."""
        kind, _, name = row.mule.partition(":")
        try:
            if send(row.envelope, int(name) if kind == "int" else name or None):
                self.store.mark_in_spool([row.id])  # until the mule has run it
            else:
                self.store.postpone(row.id, now + _QUEUE_FULL_S)
            return False
        except NotAvailable as error:
            logger.error("Message %s for a mule goes to a spooler: %s", row.id, error)
        if spool and self._enter_spool(row._replace(spool=spool)):
            return True
        self.store.postpone(row.id, now + _LATER_S)
        return False

    def _enter_spool(self, row: Waiting) -> bool:
        try:
            content = wire.spool_file(row.envelope)
            to_spool.submit_once(row.spool, row.id, row.delivery, content, sync=row.on_disk)
        except OSError as error:
            _log_refusal(row.spool, error)
            return False
        self.store.mark_in_spool([row.id])
        return True

    # whose turn it is

    def has_turn(self, spool: str, window: int, ident: str, priority: float) -> bool:
        """Tell whether a message that is ready may have to enter before another one ends."""
        there = self.store.turns_in_spool(spool)
        return len(there) < window or (priority, ident) < max(there)

    def pump(self, spool: str, window: int, *, swap: bool) -> bool:
        """Move the most urgent prioritised tasks into a spool, up to a window of files there.

        Args:
            spool: The spool directory.
            window: How many prioritised files may lie there.
            swap: A file that nobody has in hand makes room for a more urgent one. Not for a thread
                beside a running spooler, whose own lock it wouldn't see.

        Returns:
            Whether something entered the spool.
        """
        entered = False
        with self.store.transaction():
            there = self._there(spool)
            for row in self.store.most_urgent(spool, window):
                window -= self._make_room(spool, there, row, window) if swap else 0
                if len(there) >= window or not self._enter_spool(row):
                    break
                entered = True
                there.append((row.priority or 0.0, row.id, row.delivery))
            self.home.mark_priorities(wait=self.store.has_priorities())
        return entered

    def _make_room(
        self, spool: str, there: list[tuple[float, str, int]], row: Waiting, window: int
    ) -> int:
        """Take files back that are less urgent than a row until it has room.

        Returns:
            How many files couldn't be taken back, because they are in hand.
        """
        in_hand = 0
        while there and len(there) >= window - in_hand:
            worst = max(there)
            if worst[:2] <= (row.priority or 0.0, row.id):
                break
            there.remove(worst)
            if self._take_back(spool, *worst[1:]):
                break
            in_hand += 1
        return in_hand

    def _there(self, spool: str) -> list[tuple[float, str, int]]:
        """Return priority, id and delivery of the files in a spool; the others wait again.

        A run notes its end before uWSGI removes the file: a row that is in the spool and has no
        file was taken back by a process that died before it could note that.
        """
        there = []
        for row in self.store.prioritised_in_spool(spool):
            if os.path.exists(os.path.join(spool, to_spool.file_name(row[1], row[2]))):
                there.append(row)
            else:
                self.store.take_back(row[1])
        return there

    def _take_back(self, spool: str, ident: str, delivery: int) -> bool:
        path = os.path.join(spool, to_spool.file_name(ident, delivery))
        if not to_spool.remove_unlocked(path):
            return False
        self.store.take_back(ident)
        return True


def _log_refusal(spool: str, error: OSError) -> None:
    logger.error("The spool %s takes no task, it is tried again: %s", spool, error)
