"""The history: one row per message that ended, folded in from the journals."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from ..errors import NotAvailable
from ..journal import Record
from ..model import DEFAULT_QUEUE
from .database import Database

_COLUMNS = (
    "id, state, task, queue, executor, priority, created_at, started_at, finished_at, due_at,"
    " attempt, delivery, crashes, interruptions, pid, reason, error, details, result"
)
_LIGHT = _COLUMNS.replace("details, result", "x'', CASE result WHEN x'' THEN x'' ELSE x'00' END")
_VALUES = ", ".join("?" * len(Record._fields))
_WAITING_COLUMNS = "id, delivery, due, priority, executor, spool, envelope"


class HistoryTable(Database):
    """The finished runs of a home."""

    def add_runs(self, records: Iterable[Record]) -> None:
        """Keep how messages ended; a later delivery of an id takes the place of an earlier one.

        Raises:
            NotAvailable: They can't be written.
        """
        try:
            with self.transaction() as connection:
                _insert(connection, records)
        except sqlite3.Error as error:
            raise NotAvailable(f"The history in {self.path} can't be written: {error}") from error

    def fold(self, name: str, read: Callable[[int], tuple[list[Record], int]]) -> int:
        """Take what a journal has beyond what was taken before, all or nothing.

        Args:
            name: Of the journal's file.
            read: Gives the records from an offset on, and the offset behind them.

        Returns:
            How many records there were.

        Raises:
            NotAvailable: They can't be written.
        """
        try:
            with self.transaction() as connection:
                found, end = read(self.folded_to(name))
                _insert(connection, found)
                connection.execute("INSERT OR REPLACE INTO journals VALUES (?, ?)", (name, end))
        except sqlite3.Error as error:
            raise NotAvailable(f"The history in {self.path} can't be written: {error}") from error
        return len(found)

    def folded_to(self, name: str) -> int:
        """Return up to which offset a journal was taken."""
        found = self.connection().execute("SELECT folded FROM journals WHERE name = ?", (name,))
        row = found.fetchone()
        return 0 if row is None else int(row[0])

    def folded(self) -> dict[str, int]:
        """Return up to which offset each journal was taken."""
        return dict(self.connection().execute("SELECT name, folded FROM journals"))

    def forget_journal(self, name: str) -> None:
        """Forget a journal that is gone."""
        self.connection().execute("DELETE FROM journals WHERE name = ?", (name,))

    def run(self, ident: str) -> Record | None:
        """Return how an id ended, or ``None``."""
        query = f"SELECT {_COLUMNS} FROM runs WHERE id = ?"  # noqa: S608  constants only
        row = self.connection().execute(query, (ident,)).fetchone()
        return None if row is None else Record(*row)

    def runs(
        self,
        states: Sequence[int],
        task: str | None,
        queue: str | None,
        since: float | None,
        limit: int,
    ) -> list[Record]:
        """Return runs without their details, the latest first.

        A result is told by one byte: that there is one.
        """
        wanted = [("state = ?", [state]) for state in states] or [("1", [])]
        found: list[Record] = []
        for where, values in wanted:  # one state at a time: each is in an index by time
            found += self._latest(where, [*values], task, queue, since, limit)
        return sorted(found, key=lambda record: -record.finished_at)[:limit]

    def _latest(
        self,
        where: str,
        values: list[object],
        task: str | None,
        queue: str | None,
        since: float | None,
        limit: int,
    ) -> list[Record]:
        for condition, value in (("task = ?", task), ("queue = ?", queue)):
            if value is not None:
                where, values = f"{where} AND {condition}", [*values, value]
        if queue not in (None, DEFAULT_QUEUE):
            where = f"{where} AND queue != 'default'"  # lets the partial index be used
        if since is not None:
            where, values = f"{where} AND finished_at >= ?", [*values, since]
        order = "ORDER BY finished_at DESC LIMIT ?"
        query = f"SELECT {_LIGHT} FROM runs WHERE {where} {order}"  # noqa: S608  constants only
        return [Record(*row) for row in self.connection().execute(query, (*values, limit))]

    def counts(self) -> dict[int, int]:
        """Return how many runs ended in each state."""
        return dict(self.connection().execute("SELECT state, count(*) FROM runs GROUP BY state"))

    def oldest(self) -> float | None:
        """Return when the oldest run that is kept ended."""
        row = self.connection().execute("SELECT min(finished_at) FROM runs").fetchone()
        moment: float | None = row[0]
        return moment

    def runs_beyond(self, most: int) -> int:
        """Return how many runs there are beyond a number."""
        connection = self.connection()
        oldest, latest = connection.execute("SELECT min(rowid), max(rowid) FROM runs").fetchone()
        if oldest is None or latest - oldest < most:  # counting them all takes its time
            return 0
        number: int = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        return max(0, number - most)

    def prune_runs(self, before: float, beyond: int, limit: int) -> int:
        """Forget the oldest runs: those of before a moment, and some more.

        Args:
            before: Epoch seconds.
            beyond: How many are forgotten, however young.
            limit: How many are forgotten at most.

        Returns:
            How many were.
        """
        where, values = "finished_at < ?", [before, limit]
        if beyond > 0:
            where, values = "1", [min(beyond, limit)]
        cursor = self.connection().execute(
            "DELETE FROM runs WHERE rowid IN"  # noqa: S608  constants only
            f" (SELECT rowid FROM runs WHERE {where} ORDER BY finished_at LIMIT ?)",
            values,
        )
        return cursor.rowcount

    # what hasn't ended yet

    def outside(self, limit: int) -> list[tuple[str, int, float, float | None, int, str, bytes]]:
        """Return what waits outside of the spools, for its turn or for its time: the next first.

        Each with id, delivery, due time, priority, executor, spool and envelope.
        """
        select = f"SELECT {_WAITING_COLUMNS} FROM waiting"  # noqa: S608  constants only
        turns = self.connection().execute(f"{select} WHERE state = 1 LIMIT ?", (limit,)).fetchall()
        times = self.connection().execute(
            f"{select} WHERE state = 0 ORDER BY due LIMIT ?", (limit - len(turns),)
        )
        return [*turns, *times]

    def due_of(self, ident: str) -> float | None:
        """Return when an id that waits is due, or ``None`` if it doesn't wait."""
        found = self.connection().execute(
            "SELECT due FROM waiting WHERE id = ? AND state < 2", (ident,)
        )
        row = found.fetchone()
        return None if row is None else float(row[0])

    def envelope_of(self, ident: str) -> bytes:
        """Return the message of an id that waits; nothing if it doesn't."""
        found = self.connection().execute("SELECT envelope FROM waiting WHERE id = ?", (ident,))
        row = found.fetchone()
        return b"" if row is None else bytes(row[0])

    def count_waiting(self, now: float) -> tuple[int, int]:
        """Return how many rows that aren't in a spool may run now, and how many later."""
        row = self.connection().execute(_COUNT_WAITING, (now, now)).fetchone()
        return int(row[0] or 0), int(row[1] or 0)


def _insert(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    connection.executemany(
        f"INSERT INTO runs ({_COLUMNS}) VALUES ({_VALUES})"  # noqa: S608  constants only
        f" ON CONFLICT (id) DO UPDATE SET {_CHANGES} WHERE excluded.delivery >= runs.delivery",
        records,
    )


_CHANGES = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
_COUNT_WAITING = (
    "SELECT (SELECT count(*) FROM waiting WHERE state = 1)"
    " + (SELECT count(*) FROM waiting WHERE state = 0 AND due <= ?),"
    " (SELECT count(*) FROM waiting WHERE state = 0 AND due > ?)"
)
