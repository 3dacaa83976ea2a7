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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import files, paths, wire
from .errors import NotAvailable
from .executors import spooler as to_spool
from .home import Home
from .inflight import CANCELLED, Inflight
from .letters import DeadLetter, Letters
from .model import Message, TaskExecutor

if TYPE_CHECKING:
    from .store import Store, Waiting

logger = logging.getLogger(__name__)

_BATCH = 500
_LATER_S = 5.0
_LOOK_AGAIN_S = 1.0
_QUEUE_FULL_S = 0.1
SendToMule = Callable[[bytes, "int | str | None"], bool]


class Site:
    """A home in use.

    Life: made when the first message for it is placed or handled; the store opens at its first use.
    """

    def __init__(self, home: Home, secrets: tuple[str, ...]) -> None:
        self.home = home
        home.make()
        self.keys = home.keys(secrets)
        self.signer = wire.Signer(self._signing_first(self.keys))
        self.letters = Letters(home.file("dead"))
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

        if message.priority is not None and executor == TaskExecutor.SPOOLER:
            self.home.mark_priorities(wait=True)
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
        )
        return store.put(row)

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

    def promote(self, now: float, send: SendToMule | None, spool: str = "") -> set[str]:
        """Move what is due to its executor; return the spools that got something.

        Args:
            now: Epoch seconds.
            send: Hands an envelope to a mule, raises ``NotAvailable`` where there is no such one;
                ``None`` where that can't be done from here: those rows stay for the timekeeper.
            spool: Spool directory for what is for a mule that isn't there any more, if any.
        """
        spools: set[str] = set()
        while True:
            with self.store.transaction():
                rows = self.store.due(now, _BATCH, mules=send is not None)
                for row in rows:
                    self._promote_one(row, now, send, spools, spool)
            if len(rows) < _BATCH:
                return spools

    def _promote_one(
        self, row: Waiting, now: float, send: SendToMule | None, spools: set[str], spool: str
    ) -> None:
        if row.executor == TaskExecutor.MULE and send is not None:
            try:
                sent = self._sent(row, send)
            except NotAvailable as error:
                logger.error("Message %s for a mule goes to a spooler: %s", row.id, error)
                row = row._replace(spool=spool)
            else:
                if sent:
                    self.store.finish(row.id, row.delivery)
                else:
                    self.store.postpone(row.id, now + _QUEUE_FULL_S)
                return
        if row.spool and self._enter_spool(row):
            spools.add(row.spool)
        else:
            self.store.postpone(row.id, now + _LATER_S)

    def _sent(self, row: Waiting, send: SendToMule) -> bool:
        kind, _, name = row.mule.partition(":")
        return send(row.envelope, int(name) if kind == "int" else name or None)

    def _enter_spool(self, row: Waiting) -> bool:
        try:
            content = wire.spool_file(row.envelope)
            to_spool.submit_once(row.spool, row.id, row.delivery, content, sync=row.on_disk)
        except OSError as error:
            logger.error("The spool %s takes no task, it is tried again: %s", row.spool, error)
            return False
        self.store.mark_in_spool([row.id])
        return True

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
            for row in self.store.most_urgent(spool, time.time(), window):
                window -= self._make_room(spool, there, row, window) if swap else 0
                if len(there) >= window:
                    break
                entered |= self._enter_spool(row)
                there.append(row)
            if not self.store.has_priorities():
                self.home.mark_priorities(wait=False)
        return entered

    def _make_room(self, spool: str, there: list[Waiting], row: Waiting, window: int) -> int:
        """Take files back that are less urgent than a row until it has room.

        Returns:
            How many files couldn't be taken back, because they are in hand.
        """
        in_hand = 0
        while there and len(there) >= window - in_hand:
            worst = max(there, key=_urgency)
            if _urgency(worst) <= _urgency(row):
                break
            there.remove(worst)
            if self._take_back(spool, worst):
                break
            in_hand += 1
        return in_hand

    def _there(self, spool: str) -> list[Waiting]:
        """Return the prioritised rows whose files lie in a spool; the others wait again.

        A run notes its end before uWSGI removes the file: a row that is in the spool and has no
        file was taken back by a process that died before it could note that.
        """
        there = []
        for row in self.store.prioritised_in_spool(spool):
            if self._lies(spool, row):
                there.append(row)
            else:
                self.store.take_back(row.id)
        return there

    def _lies(self, spool: str, row: Waiting) -> bool:
        return os.path.exists(os.path.join(spool, to_spool.file_name(row.id, row.delivery)))

    def _take_back(self, spool: str, row: Waiting) -> bool:
        path = os.path.join(spool, to_spool.file_name(row.id, row.delivery))
        if not to_spool.remove_unlocked(path):
            return False
        self.store.take_back(row.id)
        return True

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
        if stands is not None and stands[1] == _WAITING:
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

    def cancel(self, ident: str, spools: Sequence[str]) -> bool:
        """Remove a message that is queued; False if it isn't."""
        state, path = self.find(ident, spools)
        if state != "queued":
            return False
        if not path:
            stands = self.store.stands_at(ident)
            if stands is None or not self.store.cancel(ident):
                return self.cancel(ident, spools)  # it has entered the spool meanwhile
            self.inflight.note_over(ident, stands[0], CANCELLED)
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
        if not self.home.is_paused() or self._is_in_hand(ident):
            return False  # a spooler has it, and is about to begin
        note()  # a paused spooler has it, and looks at it when taking goes on
        return True


def _urgency(row: Waiting) -> tuple[float, str]:
    return (row.priority or 0.0, row.id)


_WAITING, _FINAL = 0, 2
_PRUNE_EVERY = 200
