"""The history of a home: how each message ended, in the journals first, then in the store.

Noting an end costs one write and never fails a task. Whoever reads takes what the journals have
into the store first; the timekeeper does so when nothing is being written, or when much is.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import journal
from .board import Progress
from .errors import NotAvailable
from .home import Home
from .journal import Journal, Record
from .model import Attempt, Message

if TYPE_CHECKING:
    from .store import Store

logger = logging.getLogger(__name__)

_BATCH_BYTES = 128 << 10
_MUCH_BYTES = 16 << 20
_LONGEST_S = 30.0
_LOOK_S = 2.0
_IDLE_LOOK_S = 60.0
_PRUNE_ROWS = 40
_PRUNE_AGAIN_S = 0.01
_PRUNE_EVERY_S = 60.0
_MOST_TRACE = 16_000


class History:
    """The history of a home.

    Args:
        home: The home.
        store: Gives its store.
        has_store: Tells whether there is one already.
    """

    def __init__(
        self, home: Home, store: Callable[[], Store], has_store: Callable[[], bool]
    ) -> None:
        self.journal = Journal(home.file("journal"))
        self._home, self._store, self._has_store = home, store, has_store
        self._sizes: dict[str, int] = {}
        self._folded: dict[str, int] = {}
        self._folded_at = self._look_at = self._prune_at = 0.0
        self._has_failed = False
        self._beyond = 0

    def note(self, record: Record) -> None:
        """Note how a message ended. A failure is counted, and logged once.

        A process that takes messages appends it to its journal; others write it into the store.
        """
        try:
            if self.journal.place is None:
                self._store().add_runs([record])
            else:
                self.journal.append(journal.pack(record))
        except (OSError, NotAvailable) as error:
            self._lose(error)

    def note_plain(self, message: Message, executor: int, started_at: float) -> None:
        """Note that a message is ok, of which nothing else is kept; see ``note``."""
        own = self.journal
        if own.place is None:
            self.note(record_of(message, journal.OK, executor, started_at=started_at))
            return
        try:
            own.append(journal.pack_plain(message, executor, started_at, own.pid))
        except OSError as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        with contextlib.suppress(OSError):
            self._home.count("history_lost")
        if not self._has_failed:
            self._has_failed = True
            logger.error(
                "The end of a task can't be written into the history (%s); the tasks run on."
                " This is said once, and counted as history_lost",
                error,
            )

    def find(self, ident: str) -> Record | None:
        """Return how an id ended, or ``None`` if that isn't known, or not any more."""
        found = self.journal.find(ident)  # first: what leaves it is in the store already
        if found is None and self._has_store():
            found = self._store().run(ident)
        return found

    # into the store

    def is_any(self) -> bool:
        """Tell whether something was ever noted."""
        return self._has_store() or bool(self.journal.names())

    def fold(self) -> int:
        """Take all that the journals have into the store; return how many records.

        Raises:
            NotAvailable: The store can't be written: the journals keep what they have.
        """
        names = self.journal.names()
        if not names:
            return 0
        store, taken = self._store(), 0
        folded = store.folded()
        sizes = self.journal.sizes()
        for name in names:
            while sizes.get(name, 0) > folded.get(name, 0):
                before = folded.get(name, 0)
                taken += store.fold(name, functools.partial(self._read, name))
                folded[name] = store.folded_to(name)
                if folded[name] <= before:
                    break  # the rest is half written
            if self.journal.is_closed(name, names) and self._is_read(name, folded.get(name, 0)):
                self.journal.remove(name)
                store.forget_journal(name)
        self._folded = {name: size for name, size in sizes.items() if name in folded}
        self._folded_at = time.time()
        return taken

    def _read(self, name: str, start: int) -> tuple[list[Record], int]:
        """Return the records of a journal from an offset on, of some of its bytes."""
        most = _BATCH_BYTES
        while True:
            data = self.journal.read(name, start, most)
            found = list(journal.records(data))
            if found or len(data) < most:
                end = found[-1][0] if found else 0
                return [record for _, record in found], start + end
            most *= 4  # one that is larger, or bytes that are none

    def _is_read(self, name: str, folded: int) -> bool:
        """Tell whether nothing is left in a journal that could be read."""
        return next(journal.records(self.journal.read(name, folded)), None) is None

    # the timekeeper's part

    def tend(self, now: float, age: float, most: int) -> float:
        """Take what is quiet into the store, and forget the oldest.

        Args:
            now: Epoch seconds.
            age: Seconds for which a run is kept.
            most: How many runs are kept.

        Returns:
            Seconds until it wants to be called again.
        """
        if now >= self._look_at:
            self._look_at = now + (_LOOK_S if self._fold_if_quiet(now) else _IDLE_LOOK_S)
        if now >= self._prune_at and self._has_store():
            self._prune_at = now + self._prune(now - age, most)
        elif now >= self._prune_at:
            self._prune_at = now + _PRUNE_EVERY_S
        return max(0.0, min(self._look_at, self._prune_at) - time.time())

    def _prune(self, before: float, most: int) -> float:
        """Forget some of the oldest, few at a time: who calls meanwhile waits for the same lock."""
        store = self._store()
        if self._beyond <= 0:
            self._beyond = store.runs_beyond(most)
        pruned = store.prune_runs(before, self._beyond, _PRUNE_ROWS)
        self._beyond -= pruned
        return _PRUNE_AGAIN_S if pruned == _PRUNE_ROWS else _PRUNE_EVERY_S

    def _fold_if_quiet(self, now: float) -> bool:
        """Take what is there when nothing is being added, or much is; tell whether some is left."""
        sizes = self.journal.sizes()
        if sizes == self._folded:
            return False
        quiet, self._sizes = sizes == self._sizes, sizes
        much = sum(sizes.values()) - sum(self._folded.values()) > _MUCH_BYTES
        if quiet or much or now - self._folded_at > _LONGEST_S:
            try:
                self.fold()
            except (NotAvailable, OSError) as error:  # a full disk: the journals keep it
                logger.warning("The history waits in the journals: %s", error)
            return False
        return True


def details_of(
    trace: str,
    attempts: tuple[Attempt, ...],
    progress: Progress | None,
    lines: tuple[str, ...],
) -> bytes:
    """Return as JSON what is kept of a run beside its figures; nothing where there is nothing."""
    kept: dict[str, Any] = {}
    if trace:
        kept["traceback"] = trace[-_MOST_TRACE:]
    if attempts:
        kept["attempts"] = attempts
    if progress is not None:
        kept["progress"] = progress
    if lines:
        kept["logs"] = lines
    return json.dumps(kept).encode() if kept else b""


def record_of(
    message: Message,
    state: int,
    executor: int,
    *,
    started_at: float = 0.0,
    reason: str = "",
    error: str = "",
    details: bytes = b"",
    result: bytes = b"",
) -> Record:
    """Return what the history keeps of a message that ended now.

    Args:
        message: The message.
        state: How it ended.
        executor: By which door it came.
        started_at: Epoch seconds of its last attempt, in this process; 0: it wasn't started.
        reason: Why, in a few words.
        error: Type and text of the last exception.
        details: What ``details_of`` gave.
        result: What ``wire.pack_result`` gave.
    """
    return Record(
        message.id,
        state,
        message.task,
        message.queue,
        executor,
        message.priority,
        message.created_at,
        started_at,
        time.time(),
        message.at,
        message.attempt,
        message.delivery,
        message.crashes,
        message.interruptions,
        os.getpid() if started_at else 0,
        reason,
        error,
        details,
        result,
    )
