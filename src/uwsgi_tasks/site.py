"""A site: one home with its keys, store and dead letters, and what moves between them.

An instance has one site for its own spools; each external spool that another instance serves is a
site of its own, with that instance's key.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import wire
from .executors import spooler as to_spool
from .home import Home
from .letters import DeadLetter, Letters
from .model import Message, TaskExecutor

if TYPE_CHECKING:
    from .store import Store, Waiting

logger = logging.getLogger(__name__)

_BATCH = 500
_LATER_S = 5.0
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
        """The store; SQLite is imported when the first message has to wait."""
        if self._store is None:
            from .store import Store

            self._store = Store(self.home.file("store.db"))
        return self._store

    # waiting

    def wait(
        self,
        message: Message,
        due: float,
        executor: int,
        spool: str = "",
        mule: int | str | None = None,
        *,
        again: bool = False,
    ) -> bool:
        """Let a message wait until a moment; False when this attempt, or a later one, was there.

        Args:
            message: What waits; it is marked as stored.
            due: Epoch seconds.
            executor: The executor that gets it then.
            spool: The spool directory that it enters then.
            mule: The mule that gets it then.
            again: This attempt was in the spool and goes back.
        """
        from .store import Waiting

        if message.priority is not None and executor == TaskExecutor.SPOOLER:
            self.home.mark_priorities(wait=True)
        envelope = wire.pack(message._replace(stored=True), self.signer)
        row = Waiting(
            message.id,
            message.attempt,
            due,
            message.priority if executor == TaskExecutor.SPOOLER else None,
            executor,
            spool,
            "" if mule is None else f"{type(mule).__name__}:{mule}",
            envelope,
        )
        return self.store.put(row, again=again)

    def is_superseded(self, message: Message) -> bool:
        """Tell whether a stored message has gone on without this copy of it."""
        if not message.stored:
            return False
        stands = self.store.stands_at(message.id)
        return stands is not None and (stands[0] != message.attempt or stands[1] == _FINAL)

    def finish(self, message: Message) -> None:
        """Note that a message reached its final state."""
        if message.stored:
            self.store.finish(message.id, message.attempt)

    def promote(self, now: float, send: SendToMule | None) -> set[str]:
        """Move what is due to its executor; return the spools that got something.

        Args:
            now: Epoch seconds.
            send: Hands an envelope to a mule; ``None`` where that can't be done.
        """
        spools: set[str] = set()
        while True:
            with self.store.transaction():
                rows = self.store.due(now, _BATCH)
                for row in rows:
                    self._promote_one(row, now, send, spools)
            if len(rows) < _BATCH:
                return spools

    def _promote_one(
        self, row: Waiting, now: float, send: SendToMule | None, spools: set[str]
    ) -> None:
        if row.executor == TaskExecutor.MULE:
            if send is not None and self._sent(row, send):
                self.store.finish(row.id, row.attempt)
            else:
                self.store.postpone(row.id, now + 0.1 if send else now + _LATER_S)
        elif self._enter_spool(row):
            spools.add(row.spool)
        else:
            self.store.postpone(row.id, now + _LATER_S)

    def _sent(self, row: Waiting, send: SendToMule) -> bool:
        kind, _, name = row.mule.partition(":")
        return send(row.envelope, int(name) if kind == "int" else name or None)

    def _enter_spool(self, row: Waiting) -> bool:
        try:
            to_spool.submit_once(row.spool, row.id, row.attempt, wire.spool_file(row.envelope))
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
        return os.path.exists(os.path.join(spool, to_spool.file_name(row.id, row.attempt)))

    def _take_back(self, spool: str, row: Waiting) -> bool:
        path = os.path.join(spool, to_spool.file_name(row.id, row.attempt))
        if not to_spool.remove_unlocked(path):
            return False
        self.store.take_back(row.id)
        return True

    # dead letters

    def bury(self, letter: DeadLetter, content: bytes) -> None:
        """Keep a dead letter."""
        self.letters.keep(letter, content)

    # what the files tell

    def find(self, ident: str, spools: Sequence[str]) -> tuple[str, str]:
        """Return the state of an id as the files tell it, and the path of its spool file, if any.

        The state is ``"queued"``, ``"running"``, ``"dead"`` or ``"gone"``.
        """
        attempt = 1
        stands = self.store.stands_at(ident) if os.path.exists(self.home.file("store.db")) else None
        if stands is not None:
            if stands[1] == _WAITING:
                return "queued", ""
            attempt = stands[0]
        for spool in spools:
            path = os.path.join(spool, to_spool.file_name(ident, attempt))
            state = to_spool.state_of(path)
            if state != "gone":
                return state, path
        return ("dead" if self.letters.has(ident) else "gone"), ""

    def cancel(self, ident: str, spools: Sequence[str]) -> bool:
        """Remove a message that is queued; False if it isn't."""
        state, path = self.find(ident, spools)
        if state != "queued":
            return False
        if not path:
            return self.store.cancel(ident)
        if os.path.exists(self.home.file("store.db")):
            self.store.finish(ident, _ANY_ATTEMPT)  # first: a file that stays is passed over
        return to_spool.remove_unlocked(path)


def _urgency(row: Waiting) -> tuple[float, str]:
    return (row.priority or 0.0, row.id)


_WAITING, _FINAL = 0, 2
_ANY_ATTEMPT = 1 << 30
