"""A site: one home with its keys, store and dead letters, and what moves between them.

An instance has one site for its own spools; each external spool that another instance serves is a
site of its own, with that instance's key.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import files, paths, wire
from .board import Board
from .errors import NotAvailable
from .executors import spooler as to_spool
from .history import History
from .home import Home
from .inflight import CANCELLED, Inflight
from .letters import DeadLetter, Letters
from .model import Message, TaskExecutor
from .moving import Moving
from .waits import Waits

if TYPE_CHECKING:
    from .store import Store

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0


class Site(Moving):
    """A home in use.

    Life: made when the first message for it is placed or handled; the store opens at its first use.
    """

    def __init__(self, home: Home, secrets: tuple[str, ...]) -> None:
        self.home = home
        home.make()
        self.keys = home.keys(secrets)
        self.signer = wire.Signer(self._signing_first(self.keys))
        self.letters = Letters(home.file("dead"))
        self.history = History(home, lambda: self.store, self.has_store)
        self.waits = Waits(home.file("waiters"), home.file("waits"))
        self.board = Board(home.file("board"))
        self._store: Store | None = None
        self._inflight: Inflight | None = None
        self._noted: set[str] = set()
        self._is_flushed = False
        self._look_again_at = 0.0
        self._is_replaced = False
        self._prefixes: dict[str, str] = {}

    def _signing_first(self, keys: Sequence[bytes]) -> list[bytes]:
        written = self.home.fingerprint()
        return sorted(keys, key=lambda key: wire.fingerprint(key) != written)

    def adopt_first_key(self) -> None:
        """Sign with the first of the configured keys from now on: the server rotates."""
        self.home.adopt_key(self.keys[0])
        self.signer = wire.Signer(self.keys)

    @property
    def store(self) -> Store:
        """The store; SQLite is imported when the first message has to wait.

        Raises:
            NotAvailable: It can't be.
        """
        if self._store is None:
            try:
                from .store import Store
            except OSError as error:  # no descriptor is left to read the module with
                raise NotAvailable(f"The store can't be opened: {error}") from error
            self._store = Store(self.home.file("store.db"))
        return self._store

    @property
    def inflight(self) -> Inflight:
        """What the processes of the home have in hand, and what is over.

        Raises:
            HomeError: Its file can't be made.
        """
        if self._inflight is None:
            self._inflight = Inflight(self.home.file("inflight"), self.home.file("hands"))
        return self._inflight

    def is_replaced(self, now: float = math.inf) -> bool:
        """Tell whether somebody removed the home under the running server.

        Args:
            now: Epoch seconds: it looks once a second; by default it looks now.
        """
        if not self._is_replaced and now >= self._look_again_at:
            self._look_again_at = min(now, time.time()) + _LOOK_AGAIN_S
            self._is_replaced = self.home.is_replaced()
        return self._is_replaced

    def reopen(self) -> None:
        """Open again what a task closed: every descriptor of the process."""
        self.home.reopen()
        self.history.journal.abandon()
        if self._store is not None:
            self._store.abandon()

    def has_store(self) -> bool:
        """Tell whether anything ever had to wait here."""
        return self._store is not None or os.path.exists(self.home.file("store.db"))

    def note_package(self, task: str) -> None:
        """Note that the package of a task was imported by one who may write to this home."""
        if task not in self._noted:
            with contextlib.suppress(OSError):  # the task itself tells what is wrong with the home
                self.home.announce(f"package-{paths.package_of(task)[:200]}")
                self._noted.add(task)

    def knows_package(self, package: str) -> bool:
        """Tell whether ``note_package`` was called for a task of that package."""
        return self.home.is_announced(f"package-{package[:200]}")

    # waiting

    def wait(
        self,
        message: Message,
        due: float,
        executor: int,
        spool: str = "",
        mule: int | str | None = None,
    ) -> bool:
        """Let a message wait until a moment; False when this delivery, or a later one, was there.

        Args:
            message: What waits; it is marked as stored.
            due: Epoch seconds.
            executor: The executor that gets it then.
            spool: The spool directory that it enters then.
            mule: The mule that gets it then.
        """
        store = self.store
        from .store import Waiting

        if message.on_disk:
            self._flush_names()
        envelope = wire.pack(message._replace(stored=True), self.signer)
        row = Waiting(
            message.id,
            message.delivery,
            due,
            message.priority if executor == TaskExecutor.SPOOLER else None,
            executor,
            spool,
            "" if mule is None else f"{type(mule).__name__}:{mule}",
            envelope,
            message.on_disk,
            message.queue,
        )
        is_ready = row.priority is not None and due <= time.time()
        if is_ready:
            self.home.mark_priorities(wait=True)  # a caller that dies after the next line
        taken = store.put(row)
        if is_ready:
            self.home.mark_priorities(wait=True)  # a pump in between saw none
        return taken

    def _flush_names(self) -> None:
        """Let the store itself be found after a power cut."""
        if not self._is_flushed:
            self.store.connection()
            files.sync_directory(self.home.path)
            files.sync_directory(os.path.dirname(self.home.path))
            self._is_flushed = True

    def is_superseded(self, message: Message) -> bool:
        """Tell whether a stored message has gone on without this copy of it."""
        if not message.stored:
            return False
        stands = self.store.stands_at(message.id)
        return stands is not None and (stands[0] != message.delivery or stands[1] == _FINAL)

    def finish(self, message: Message) -> None:
        """Note in the store that a message reached its final state."""
        if message.stored:
            self.store.finish(message.id, message.delivery)

    # dead letters

    def bury(self, letter: DeadLetter, content: bytes, *, sync: bool = False) -> None:
        """Keep a dead letter; see ``Letters.keep``."""
        self.letters.keep(letter, content, sync=sync)
        if self.letters.kept >= _PRUNE_EVERY:
            self.prune_letters()

    def prune_letters(self) -> None:
        """Drop the oldest dead letters beyond the bounds; it is logged and counted."""
        dropped = self.letters.prune(time.time())
        if dropped:
            self.home.count("dead_dropped", dropped)

    # what the files tell

    def find(self, ident: str, spools: Sequence[str]) -> tuple[str, str]:
        """Return the state of an id as the files tell it, and the path of its spool file, if any.

        The state is ``"queued"``, ``"running"``, ``"dead"`` or ``"gone"``.
        """
        if self.letters.has(ident):
            return "dead", ""
        stands = self.store.stands_at(ident) if self.has_store() else None
        if stands is not None and stands[1] in _WAITS:
            return "queued", ""
        over = self.inflight.over_at(ident)  # a file of what is over is none any more
        delivery = max(stands[0] if stands else 1, over[0] + 1 if over else 1)
        for spool in spools:
            path = os.path.join(spool, to_spool.file_name(ident, delivery))
            if to_spool.state_of(path) != "gone":
                # a spooler holds it too while taking tasks is paused; one that ran and can't be
                # written down isn't held
                return ("running" if self._is_in_hand(ident) else "queued"), path
        return "gone", ""

    def _is_in_hand(self, ident: str) -> bool:
        return any(record.id == ident for record in self.inflight.busy())

    def count_files(self, spool: str) -> tuple[int, int]:
        """Return how many tasks lie in a spool directory, and how many of those are in hand."""
        names = to_spool.names_in(spool)
        in_hand = {to_spool.file_name(r.id, r.delivery) for r in self.inflight.busy()}
        return len(names), len(in_hand.intersection(names))

    def cancel(self, ident: str, spools: Sequence[str]) -> bool:
        """Remove a message that is queued; False if it isn't."""
        state, path = self.find(ident, spools)
        if state != "queued":
            return False
        if not path:
            cancelled = self.store.cancel(ident)
            if not cancelled:  # it has just moved on
                return bool(self.find(ident, spools)[1]) and self.cancel(ident, spools)
            self.inflight.note_over(ident, cancelled, CANCELLED)
            return True
        delivery = int(path.rpartition(".")[2])

        def note() -> None:
            self.inflight.note_over(ident, delivery, CANCELLED)
            if self.has_store():
                self.store.finish(ident, delivery)

        if to_spool.remove_unlocked(path, note):
            self.inflight.note_seen(ident)  # if one comes, it comes again
            self.inflight.forget_dead(ident, delivery)  # who had taken it may have died
            return True
        over = self.inflight.over_at(ident)
        if over is not None and over[:2] == (delivery, CANCELLED):
            return True  # its file can't be removed: it is passed over
        if not self.home.is_paused(os.path.dirname(path)) or self._is_in_hand(ident):
            return False  # a spooler has it, and is about to begin
        note()  # a paused spooler has it, and looks at it when taking goes on
        return True


_FINAL = 3  # as in the store, which isn't imported where nothing waits
_WAITS = (0, 1)
_PRUNE_EVERY = 200
