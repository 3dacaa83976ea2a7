"""What waits: delayed, retried and prioritised messages, and what a run left."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import NotAvailable
from ..model import TaskExecutor
from .database import Database

WAITING, READY, IN_SPOOL, FINAL = 0, 1, 2, 3
"""Where a row is: it waits for its time; then, if it has a priority, for its turn; it is in the
spool; it is over, a tombstone."""
_COLUMNS = "id, delivery, due, priority, executor, spool, mule, envelope, on_disk, queue"
_PRUNED_AT_ONCE = 500


class Waiting(NamedTuple):
    """A row of the waiting place: a delivery of a message that isn't in the spool yet."""

    id: str
    delivery: int
    due: float
    priority: float | None
    executor: int
    spool: str
    mule: str
    envelope: bytes
    on_disk: bool = False
    queue: str = "default"


class WaitingPlace(Database):
    """The waiting place of a home, and the checkpoints of what runs."""

    def put(self, row: Waiting) -> bool:
        """Let a delivery wait, unless the same or a later one of that id was there already.

        Raises:
            NotAvailable: It can't be written down.
        """
        try:
            return self._put(row)
        except (sqlite3.Error, OSError) as error:
            raise NotAvailable(
                f"The task can't be written to {self.path} ({error}): nothing was submitted."
                f" The directory has to be there, writable for uid {os.geteuid()}, and have room"
            ) from error

    def _put(self, row: Waiting) -> bool:
        now = time.time()
        state = READY if row.priority is not None and row.due <= now else WAITING
        with self.flushed(row.on_disk) as connection:
            return connection.execute(_PUT, (*row, state, now)).rowcount > 0

    def stands_at(self, ident: str) -> tuple[int, int] | None:
        """Return the delivery and the state of an id, or ``None`` if it never waited."""
        found = self.connection().execute(
            "SELECT delivery, state FROM waiting WHERE id = ?", (ident,)
        )
        row: tuple[int, int] | None = found.fetchone()
        return row

    def waiting(self, ident: str) -> Waiting | None:
        """Return the row of an id that waits for its time, or ``None``."""
        return next(iter(self._rows("id = ? AND state = 0", ident)), None)

    def finish(self, ident: str, delivery: int) -> None:
        """Note that an id reached its final state; the row stays as a tombstone for a while."""
        self.connection().execute(
            "UPDATE waiting SET state = 3, envelope = x'', changed_at = ?"
            " WHERE id = ? AND delivery <= ?",
            (time.time(), ident, delivery),
        )

    def postpone(self, ident: str, due: float) -> None:
        """Let a row that waits wait longer."""
        self.connection().execute(
            "UPDATE waiting SET due = ? WHERE id = ? AND state = 0", (due, ident)
        )

    def cancel(self, ident: str) -> int:
        """Finish an id that still waits; return its delivery, 0 if it doesn't wait."""
        cursor = self.connection().execute(
            "UPDATE waiting SET state = 3, envelope = x'', changed_at = ?"
            " WHERE id = ? AND state < 2",
            (time.time(), ident),
        )
        stands = self.stands_at(ident) if cursor.rowcount else None
        return stands[0] if stands else 0

    # for its time

    def due(self, now: float, limit: int, *, mules: bool = True) -> list[Waiting]:
        """Return rows that are due, the oldest first.

        Args:
            now: Epoch seconds.
            limit: How many rows at most.
            mules: Return what is for mules, too.
        """
        left_out = 0 if mules else TaskExecutor.MULE
        where = "state = 0 AND due <= ? AND executor != ? ORDER BY due, id LIMIT ?"
        return self._rows(where, now, left_out, limit)

    def next_due(self) -> float | None:
        """Return when the next row is due."""
        found = self.connection().execute(
            "SELECT due FROM waiting WHERE state = 0 ORDER BY due LIMIT 1"
        )
        row = found.fetchone()
        return None if row is None else float(row[0])

    def mark_ready(self, rows: Iterable[Waiting]) -> None:
        """Note that rows wait for their turn from now on."""
        self.connection().executemany(
            "UPDATE waiting SET state = 1 WHERE id = ? AND delivery = ? AND state = 0",
            [(row.id, row.delivery) for row in rows],
        )

    def mark_entered(self, row: Waiting) -> bool:
        """Note that a row that waited enters the spool; False if it went on without that."""
        cursor = self.connection().execute(
            "UPDATE waiting SET state = 2 WHERE id = ? AND delivery = ? AND state = 0",
            (row.id, row.delivery),
        )
        return cursor.rowcount > 0

    # for its turn

    def spools_with_priorities(self) -> list[str]:
        """Return the spool directories for which prioritised rows are ready or in the spool."""
        found: set[str] = set()
        for state in ("state = 1", "state = 2 AND priority IS NOT NULL"):
            query = f"SELECT spool FROM waiting WHERE {state} AND spool > ? ORDER BY spool LIMIT 1"  # noqa: S608
            last = ""
            while row := self.connection().execute(query, (last,)).fetchone():
                last = row[0]
                found.add(last)
        return sorted(found)

    def has_priorities(self) -> bool:
        """Tell whether a prioritised row is ready or in a spool."""
        queries = (
            "SELECT 1 FROM waiting INDEXED BY waiting_ready WHERE state = 1 LIMIT 1",
            "SELECT 1 FROM waiting INDEXED BY waiting_turns"
            " WHERE state = 2 AND priority IS NOT NULL LIMIT 1",
        )
        connection = self.connection()
        return any(connection.execute(query).fetchone() for query in queries)

    def prioritised_in_spool(self, spool: str) -> list[tuple[float, str, int]]:
        """Return priority, id and delivery of the prioritised rows that entered a spool."""
        found = self.connection().execute(
            "SELECT priority, id, delivery FROM waiting"
            " WHERE spool = ? AND state = 2 AND priority IS NOT NULL ORDER BY priority, id",
            (spool,),
        )
        return list(found)

    def turns_in_spool(self, spool: str) -> list[tuple[float, str]]:
        """Return priority and id of the prioritised rows that entered a spool."""
        return [row[:2] for row in self.prioritised_in_spool(spool)]

    def take_back(self, ident: str, due: float | None = None) -> None:
        """Note that a row left the spool again: it waits for its turn, or until a moment."""
        if due is None:
            self.connection().execute("UPDATE waiting SET state = 1 WHERE id = ?", (ident,))
        else:
            self.connection().execute(
                "UPDATE waiting SET state = 0, due = ? WHERE id = ?", (due, ident)
            )

    def most_urgent(self, spool: str, limit: int) -> list[Waiting]:
        """Return the rows of a spool whose turn is next: by priority, then by arrival."""
        return self._rows("spool = ? AND state = 1 ORDER BY priority, id LIMIT ?", spool, limit)

    def _rows(self, where: str, *values: object) -> list[Waiting]:
        query = f"SELECT {_COLUMNS} FROM waiting WHERE {where}"  # noqa: S608  constants only
        return [Waiting(*row) for row in self.connection().execute(query, values)]

    def mark_in_spool(self, idents: Iterable[str]) -> None:
        """Note that rows entered the spool."""
        self.connection().executemany(
            "UPDATE waiting SET state = 2 WHERE id = ?", [(ident,) for ident in idents]
        )

    def send_to_mules_again(self) -> None:
        """Let what was sent to mules wait once more: their queues are gone with their server."""
        self.connection().execute("UPDATE waiting SET state = 0 WHERE executor = 3 AND state = 2")

    def queues(self) -> dict[str, tuple[int, int]]:
        """Return how many rows of each queue wait for their time, and for their turn."""
        found: dict[str, list[int]] = {}
        for place, index in enumerate(
            ("waiting_due WHERE state = 0", "waiting_ready WHERE state = 1")
        ):
            query = f"SELECT queue, count(*) FROM waiting INDEXED BY {index} GROUP BY queue"  # noqa: S608
            for queue, number in self.connection().execute(query):
                found.setdefault(queue, [0, 0])[place] = number
        return {queue: (waiting, ready) for queue, (waiting, ready) in found.items()}

    def prune(self, before: float) -> None:
        """Forget the tombstones and firings that are older than a moment, some at a time."""
        connection, gone = self.connection(), _PRUNED_AT_ONCE
        while gone == _PRUNED_AT_ONCE:
            gone = connection.execute(_PRUNE, (before, _PRUNED_AT_ONCE)).rowcount
        connection.execute("DELETE FROM firings WHERE fired_at < ?", (before,))

    # what a run left

    def save_checkpoint(self, ident: str, buffer: bytes, *, on_disk: bool = False) -> None:
        """Keep the buffer of a running task, for the case that its process dies."""
        with self.flushed(on_disk) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", (ident, buffer, time.time())
            )

    def checkpoint(self, ident: str) -> bytes | None:
        """Return the buffer that a task saved last, or ``None``."""
        found = self.connection().execute("SELECT buffer FROM checkpoints WHERE id = ?", (ident,))
        row = found.fetchone()
        return None if row is None else row[0]

    def drop_checkpoint(self, ident: str) -> None:
        """Forget the checkpoint of a run that is over."""
        self.connection().execute("DELETE FROM checkpoints WHERE id = ?", (ident,))

    def pass_over(self, ident: str, delivery: int, path: str) -> None:
        """Note that a spool file whose run is over can't be removed."""
        self.connection().execute(
            "INSERT OR REPLACE INTO passed_over VALUES (?, ?, ?)", (ident, delivery, path)
        )

    def passed_over(self) -> list[tuple[str, int, str]]:
        """Return id, delivery and path of the spool files that can't be removed."""
        return list(self.connection().execute("SELECT id, delivery, path FROM passed_over"))

    def is_passed_over(self, ident: str) -> bool:
        """Tell whether the spool file of an id can't be removed."""
        found = self.connection().execute("SELECT 1 FROM passed_over WHERE id = ?", (ident,))
        return found.fetchone() is not None

    def forget_passed_over(self, ident: str) -> None:
        """Note that a spool file that couldn't be removed is gone."""
        self.connection().execute("DELETE FROM passed_over WHERE id = ?", (ident,))


_PUT = (
    "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET delivery = excluded.delivery, state = excluded.state,"
    " due = excluded.due, priority = excluded.priority, executor = excluded.executor,"
    " spool = excluded.spool, mule = excluded.mule, envelope = excluded.envelope,"
    " on_disk = excluded.on_disk, queue = excluded.queue, changed_at = excluded.changed_at"
    " WHERE excluded.delivery > waiting.delivery"
)
_PRUNE = (
    "DELETE FROM waiting WHERE id IN"
    " (SELECT id FROM waiting WHERE state = 3 AND changed_at < ? LIMIT ?)"
)
