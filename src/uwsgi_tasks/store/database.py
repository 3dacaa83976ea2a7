"""The database of a home: its tables, and one connection per thread of each process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator

from .. import files

_BUSY_TIMEOUT_S = 60.0
_OPEN_TRIES = 50
_MIGRATIONS = (
    """
    CREATE TABLE waiting (
        id TEXT PRIMARY KEY, delivery INTEGER NOT NULL, due REAL NOT NULL, priority REAL,
        executor INTEGER NOT NULL, spool TEXT NOT NULL, mule TEXT NOT NULL,
        envelope BLOB NOT NULL, on_disk INTEGER NOT NULL, queue TEXT NOT NULL,
        state INTEGER NOT NULL, changed_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX waiting_due ON waiting (due, id, queue) WHERE state = 0;
    CREATE INDEX waiting_ready ON waiting (spool, priority, id, queue) WHERE state = 1;
    CREATE INDEX waiting_turns ON waiting (spool, priority, id, delivery)
        WHERE state = 2 AND priority IS NOT NULL;
    CREATE INDEX waiting_mule ON waiting (state) WHERE executor = 3;
    CREATE INDEX waiting_final ON waiting (changed_at) WHERE state = 3;
    CREATE TABLE schedules (
        name TEXT PRIMARY KEY, task TEXT NOT NULL, origin TEXT NOT NULL, module TEXT NOT NULL,
        incarnation TEXT NOT NULL, rule TEXT NOT NULL, target TEXT NOT NULL,
        number INTEGER NOT NULL, envelope BLOB NOT NULL, options TEXT NOT NULL,
        iterations INTEGER, active INTEGER NOT NULL, paused INTEGER NOT NULL, moment REAL,
        next_at REAL, last_at REAL NOT NULL, last_id TEXT NOT NULL, asked_id TEXT NOT NULL,
        digest TEXT NOT NULL, fired INTEGER NOT NULL, missed INTEGER NOT NULL,
        skipped INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX schedules_next ON schedules (next_at) WHERE active = 1 AND paused = 0;
    CREATE INDEX schedules_asked ON schedules (asked_id) WHERE asked_id != '';
    CREATE TABLE firings (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, id TEXT NOT NULL,
        envelope BLOB NOT NULL, fired_at REAL NOT NULL, taken_by INTEGER NOT NULL
    );
    CREATE INDEX firings_id ON firings (id);
    CREATE TABLE checkpoints (
        id TEXT PRIMARY KEY, buffer BLOB NOT NULL, saved_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE passed_over (
        id TEXT PRIMARY KEY, delivery INTEGER NOT NULL, path TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        id TEXT NOT NULL UNIQUE, state INTEGER NOT NULL, task TEXT NOT NULL, queue TEXT NOT NULL,
        executor INTEGER NOT NULL, priority REAL, created_at REAL NOT NULL,
        started_at REAL NOT NULL, finished_at REAL NOT NULL, due_at REAL NOT NULL,
        attempt INTEGER NOT NULL, delivery INTEGER NOT NULL, crashes INTEGER NOT NULL,
        interruptions INTEGER NOT NULL, pid INTEGER NOT NULL, reason TEXT NOT NULL,
        error TEXT NOT NULL, details BLOB NOT NULL, result BLOB NOT NULL
    );
    CREATE INDEX runs_finished ON runs (finished_at);
    CREATE INDEX runs_state ON runs (state, finished_at);
    CREATE INDEX runs_task ON runs (task, finished_at);
    CREATE INDEX runs_queue ON runs (queue, finished_at) WHERE queue != 'default';
    CREATE TABLE journals (name TEXT PRIMARY KEY, folded INTEGER NOT NULL) WITHOUT ROWID;
    """,
)


class Database:
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

    def abandon(self) -> None:
        """Never use this thread's connection again: somebody closed its descriptors."""
        if hasattr(self._local, "connection"):
            self._inherited.append(self._local.connection)
            del self._local.connection, self._local.pid

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a block; roll back when it raises."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk may have rolled it back already
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def flushed(self, on_disk: bool) -> Iterator[sqlite3.Connection]:
        """Let what is committed in a block reach the disk before it ends, where asked for.

        Within a transaction nothing is committed: who holds it sees to that.
        """
        connection = self.connection()
        on_disk = on_disk and not connection.in_transaction
        if on_disk:
            connection.execute("PRAGMA synchronous = FULL")
        try:
            yield connection
        finally:
            if on_disk:
                connection.execute("PRAGMA synchronous = NORMAL")


def _open(path: str) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        files.give_to_owner(descriptor, os.path.dirname(path))
        os.close(descriptor)
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
