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

WAITING, IN_SPOOL, FINAL = 0, 1, 2


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
        with self.flushed(row.on_disk) as connection:
            cursor = connection.execute(
                "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
                " ON CONFLICT (id) DO UPDATE SET delivery = excluded.delivery, state = 0,"
                " due = excluded.due, priority = excluded.priority, executor = excluded.executor,"
                " spool = excluded.spool, mule = excluded.mule, envelope = excluded.envelope,"
                " on_disk = excluded.on_disk, changed_at = excluded.changed_at"
                " WHERE excluded.delivery > waiting.delivery",
                (*row, time.time()),
            )
        return cursor.rowcount > 0

    def stands_at(self, ident: str) -> tuple[int, int] | None:
        """Return the delivery and the state of an id, or ``None`` if it never waited."""
        found = self.connection().execute(
            "SELECT delivery, state FROM waiting WHERE id = ?", (ident,)
        )
        row: tuple[int, int] | None = found.fetchone()
        return row

    def finish(self, ident: str, delivery: int) -> None:
        """Note that an id reached its final state; the row stays as a tombstone for a while."""
        self.connection().execute(
            "UPDATE waiting SET state = 2, envelope = x'', changed_at = ?"
            " WHERE id = ? AND delivery <= ?",
            (time.time(), ident, delivery),
        )

    def postpone(self, ident: str, due: float) -> None:
        """Let a row that waits wait longer."""
        self.connection().execute("UPDATE waiting SET due = ? WHERE id = ?", (due, ident))

    def cancel(self, ident: str) -> bool:
        """Finish an id that still waits; False if it doesn't."""
        cursor = self.connection().execute(
            "UPDATE waiting SET state = 2, envelope = x'', changed_at = ?"
            " WHERE id = ? AND state = 0",
            (time.time(), ident),
        )
        return cursor.rowcount > 0

    def due(self, now: float, limit: int, *, mules: bool = True) -> list[Waiting]:
        """Return rows that are due and have no priority, the oldest first.

        Args:
            now: Epoch seconds.
            limit: How many rows at most.
            mules: Return what is for mules, too.
        """
        left_out = 0 if mules else TaskExecutor.MULE
        return self._rows(
            "state = 0 AND priority IS NULL AND due <= ? AND executor != ? ORDER BY due, id",
            now,
            left_out,
            limit,
        )

    def next_due(self) -> float | None:
        """Return when the next row is due, prioritised ones that wait for their time included."""
        row = (
            self.connection()
            .execute(
                "SELECT min(due) FROM (SELECT min(due) AS due FROM waiting"
                " WHERE state = 0 AND priority IS NULL UNION ALL SELECT min(due) FROM waiting"
                " WHERE state = 0 AND priority IS NOT NULL AND due > ?)",
                (time.time(),),
            )
            .fetchone()
        )
        moment: float | None = row[0]
        return moment

    def spools_with_priorities(self) -> list[str]:
        """Return the spool directories for which prioritised rows wait or are in the spool."""
        rows = self.connection().execute(
            "SELECT DISTINCT spool FROM waiting WHERE priority IS NOT NULL AND state < 2"
        )
        return [row[0] for row in rows]

    def has_priorities(self) -> bool:
        """Tell whether a prioritised row waits or is in a spool."""
        found = self.connection().execute(
            "SELECT 1 FROM waiting WHERE priority IS NOT NULL AND state < 2 LIMIT 1"
        )
        return found.fetchone() is not None

    def prioritised_in_spool(self, spool: str) -> list[Waiting]:
        """Return the prioritised rows that entered a spool."""
        return self._rows("spool = ? AND state = 1 AND priority IS NOT NULL", spool, -1)

    def take_back(self, ident: str) -> None:
        """Note that a row left the spool again and waits."""
        self.connection().execute("UPDATE waiting SET state = 0 WHERE id = ?", (ident,))

    def most_urgent(self, spool: str, now: float, limit: int) -> list[Waiting]:
        """Return the due prioritised rows of a spool, by priority, then by arrival."""
        return self._rows(
            "spool = ? AND state = 0 AND priority IS NOT NULL AND due <= ? ORDER BY priority, id",
            spool,
            now,
            limit,
        )

    def _rows(self, where: str, *values: object) -> list[Waiting]:
        columns = "id, delivery, due, priority, executor, spool, mule, envelope, on_disk"
        query = f"SELECT {columns} FROM waiting WHERE {where} LIMIT ?"  # noqa: S608  constants only
        found = self.connection().execute(query, values)
        return [Waiting(*row)._replace(on_disk=bool(row[-1])) for row in found]

    def mark_in_spool(self, idents: Iterable[str]) -> None:
        """Note that rows entered the spool."""
        self.connection().executemany(
            "UPDATE waiting SET state = 1 WHERE id = ?", [(ident,) for ident in idents]
        )

    def prune(self, before: float) -> None:
        """Forget the tombstones and firings that are older than a moment."""
        self.connection().execute(
            "DELETE FROM waiting WHERE state = 2 AND changed_at < ?", (before,)
        )
        self.connection().execute("DELETE FROM firings WHERE fired_at < ?", (before,))

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
