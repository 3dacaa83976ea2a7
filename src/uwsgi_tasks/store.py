"""The store: what waits, what is scheduled. The only module that knows SQL.

One SQLite database per home, in WAL mode; one connection per thread and process, opened after the
fork. ``synchronous=NORMAL``: what was committed survives the death of every process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .model import Schedule

WAITING, IN_SPOOL, FINAL = 0, 1, 2

_BUSY_TIMEOUT_S = 60.0
_OPEN_TRIES = 50
_MIGRATIONS = (
    """
    CREATE TABLE waiting (
        id TEXT PRIMARY KEY, attempt INTEGER NOT NULL, due REAL NOT NULL, priority REAL,
        executor INTEGER NOT NULL, spool TEXT NOT NULL, mule TEXT NOT NULL,
        envelope BLOB NOT NULL, state INTEGER NOT NULL, changed_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX waiting_due ON waiting (due) WHERE state = 0 AND priority IS NULL;
    CREATE INDEX waiting_priority ON waiting (spool, state, priority, due, id)
        WHERE priority IS NOT NULL AND state < 2;
    CREATE INDEX waiting_final ON waiting (changed_at) WHERE state = 2;
    CREATE TABLE schedules (
        name TEXT PRIMARY KEY, incarnation TEXT NOT NULL, rule TEXT NOT NULL,
        target TEXT NOT NULL, number INTEGER NOT NULL, iterations INTEGER,
        active INTEGER NOT NULL, next_at REAL
    ) WITHOUT ROWID;
    CREATE TABLE firings (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, name TEXT NOT NULL,
        number INTEGER NOT NULL, fired_at REAL NOT NULL
    );
    """,
)


class Waiting(NamedTuple):
    """A row of the waiting place: an attempt of a message that isn't in the spool yet."""

    id: str
    attempt: int
    due: float
    priority: float | None
    executor: int
    spool: str
    mule: str
    envelope: bytes


class Firing(NamedTuple):
    """A schedule that is due in a worker: signals carry no content, so it lies here."""

    seq: int
    target: str
    name: str
    number: int


class Store:
    """The database of a home.

    Life: made with a path; each thread of each process opens its own connection at its first use.
    A connection that came over a fork is never used or closed: SQLite forbids both.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()
        self._inherited: list[sqlite3.Connection] = []

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            if hasattr(local, "connection"):
                self._inherited.append(local.connection)
            local.connection = _open(self.path)
            local.pid = os.getpid()
        connection: sqlite3.Connection = local.connection
        return connection

    def close(self) -> None:
        """Close this thread's connection, before a fork."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.connection.close()
            del self._local.connection, self._local.pid

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a block; roll back when it raises."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    # waiting

    def put(self, row: Waiting, *, again: bool = False) -> bool:
        """Let an attempt wait, unless the same or a later one of that id was there already.

        Args:
            row: What waits.
            again: The attempt was in the spool and goes back: the same attempt may stand there.
        """
        cursor = self.connection().execute(
            "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
            " ON CONFLICT (id) DO UPDATE SET attempt = excluded.attempt, state = 0,"
            " due = excluded.due, priority = excluded.priority, executor = excluded.executor,"
            " spool = excluded.spool, mule = excluded.mule, envelope = excluded.envelope,"
            " changed_at = excluded.changed_at WHERE excluded.attempt > waiting.attempt"
            " OR (? AND excluded.attempt = waiting.attempt AND waiting.state = 1)",
            (*row, time.time(), again),
        )
        return cursor.rowcount > 0

    def stands_at(self, ident: str) -> tuple[int, int] | None:
        """Return the attempt and the state of an id, or ``None`` if it never waited."""
        found = self.connection().execute(
            "SELECT attempt, state FROM waiting WHERE id = ?", (ident,)
        )
        row: tuple[int, int] | None = found.fetchone()
        return row

    def finish(self, ident: str, attempt: int) -> None:
        """Note that an id reached its final state; the row stays as a tombstone for a while."""
        self.connection().execute(
            "UPDATE waiting SET state = 2, envelope = x'', changed_at = ?"
            " WHERE id = ? AND attempt <= ?",
            (time.time(), ident, attempt),
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

    def due(self, now: float, limit: int) -> list[Waiting]:
        """Return rows that are due and have no priority, the oldest first."""
        return self._rows(
            "state = 0 AND priority IS NULL AND due <= ? ORDER BY due, id", now, limit
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
        columns = "id, attempt, due, priority, executor, spool, mule, envelope"
        query = f"SELECT {columns} FROM waiting WHERE {where} LIMIT ?"  # noqa: S608  constants only
        return [Waiting(*row) for row in self.connection().execute(query, values)]

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

    # schedules

    def declare(self, rows: Iterable[Schedule]) -> None:
        """Write schedules down; one that stands already in this incarnation is left as it is."""
        self.connection().executemany(
            "INSERT INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation,"
            " rule = excluded.rule, target = excluded.target, number = excluded.number,"
            " iterations = excluded.iterations, active = excluded.active,"
            " next_at = excluded.next_at WHERE excluded.incarnation != schedules.incarnation",
            rows,
        )

    def start(self, row: Schedule) -> None:
        """Write a schedule down and start it anew, whatever stood there."""
        self.connection().execute(
            "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
        )

    def put_off(self, name: str, next_at: float) -> None:
        """Let a schedule fire a little later."""
        self.connection().execute(
            "UPDATE schedules SET next_at = ? WHERE name = ?", (next_at, name)
        )

    def stop(self, name: str) -> bool:
        """Stop a schedule; False if it didn't run."""
        cursor = self.connection().execute(
            "UPDATE schedules SET active = 0 WHERE name = ? AND active = 1", (name,)
        )
        return cursor.rowcount > 0

    def retire_schedules(self, incarnation: str) -> None:
        """Forget the schedules that other incarnations of the server declared."""
        self.connection().execute("DELETE FROM schedules WHERE incarnation != ?", (incarnation,))

    def active_schedules(self) -> list[Schedule]:
        """Return the schedules that have a next moment."""
        rows = self.connection().execute(
            "SELECT * FROM schedules WHERE active = 1 AND next_at IS NOT NULL"
        )
        return [_schedule(row) for row in rows]

    def due_schedules(self, now: float) -> list[Schedule]:
        """Return the schedules that are due."""
        rows = self.connection().execute(
            "SELECT * FROM schedules WHERE active = 1 AND next_at <= ? ORDER BY next_at", (now,)
        )
        return [_schedule(row) for row in rows]

    def next_schedule(self) -> float | None:
        """Return when the next schedule is due."""
        row = (
            self.connection()
            .execute("SELECT min(next_at) FROM schedules WHERE active = 1")
            .fetchone()
        )
        moment: float | None = row[0]
        return moment

    def advance(self, schedule: Schedule, next_at: float | None) -> None:
        """Write down when a schedule that fired is next due; it stops after its last iteration."""
        left = None if schedule.iterations is None else schedule.iterations - 1
        self.connection().execute(
            "UPDATE schedules SET next_at = ?, iterations = ?, active = ? WHERE name = ?"
            " AND next_at = ?",
            (
                next_at,
                left,
                int(left != 0 and next_at is not None),
                schedule.name,
                schedule.next_at,
            ),
        )

    # firings for workers

    def add_firing(self, target: str, name: str, number: int) -> None:
        """Write down that a schedule is due in the workers of a target."""
        self.connection().execute(
            "INSERT INTO firings (target, name, number, fired_at) VALUES (?, ?, ?, ?)",
            (target, name, number, time.time()),
        )

    def take_firing(self, target: str) -> Firing | None:
        """Take the oldest firing of a target away; each is given to one taker."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT seq, target, name, number FROM firings WHERE target = ?"
                " ORDER BY seq LIMIT 1",
                (target,),
            ).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM firings WHERE seq = ?", (row[0],))
            return Firing(*row)

    def firings_after(self, target: str, seq: int) -> list[Firing]:
        """Return the firings of a target that came after a number."""
        rows = self.connection().execute(
            "SELECT seq, target, name, number FROM firings WHERE target = ? AND seq > ?"
            " ORDER BY seq",
            (target, seq),
        )
        return [Firing(*row) for row in rows]

    def last_firing(self) -> int:
        """Return the number of the latest firing."""
        row = (
            self.connection()
            .execute("SELECT seq FROM sqlite_sequence WHERE name = 'firings'")
            .fetchone()
        )
        return row[0] if row else 0


def _schedule(row: tuple[Any, ...]) -> Schedule:
    return Schedule(*row)._replace(active=bool(row[6]))


def _open(path: str) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    for tries_left in range(_OPEN_TRIES, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _migrate(connection)
        except sqlite3.DatabaseError as error:
            # switching to WAL doesn't wait for the busy timeout while another process does the same
            if not tries_left or "locked" not in str(error):
                connection.close()
                raise
            time.sleep(0.02)
        else:
            break
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    if _version(connection) == len(_MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_version(connection), len(_MIGRATIONS)):
            for statement in _MIGRATIONS[number].split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
