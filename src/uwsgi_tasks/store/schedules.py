"""What is scheduled: the rows of schedules, and their firings for workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..model import ADDED, DECLARED, Schedule
from .database import Database

_COLUMNS = ", ".join(Schedule._fields)
_PLACES = ", ".join("?" * len(Schedule._fields))
_PREFIXED = ", ".join(f"s.{name}" for name in Schedule._fields)
_FIRES = "s.active = 1 AND s.paused = 0 AND s.next_at <= ? ORDER BY s.next_at LIMIT ?"
_ASKED = "s.asked_id != '' LIMIT ?"


class Firing(NamedTuple):
    """A schedule that is due in a worker: signals carry no content, so it lies here."""

    seq: int
    target: str
    envelope: bytes


class Standing(NamedTuple):
    """Where the last message of a schedule stands in the waiting place."""

    delivery: int
    state: int
    spool: str
    executor: int


class Schedules(Database):
    """The schedules of a home."""

    def declare(self, rows: Iterable[Schedule]) -> None:
        """Reconcile what the code declares with what stands here.

        One that was declared already in this incarnation is left as it is, one that an earlier one
        declared in the same words goes on in its phase, and a changed one begins anew.
        """
        with self.transaction():
            for row in rows:
                merged = _merged(self.schedule(row.name), row)
                if merged is not None:
                    self._write(merged)

    def add(self, row: Schedule) -> Schedule | None:
        """Write an added schedule down, which goes on in its phase where it stood in these words.

        Returns:
            What stands now; ``None`` where the code declares one of that name.
        """
        with self.transaction():
            stands = self.schedule(row.name)
            if stands is not None and stands.origin == DECLARED:
                return None
            if stands is not None and stands.digest == row.digest and stands.active:
                return stands
            self._write(row if stands is None else _with_history(row, stands))
            return self.schedule(row.name)

    def start(self, row: Schedule) -> None:
        """Write a schedule down and start it anew, whatever stood there."""
        with self.transaction():
            stands = self.schedule(row.name)
            anew = row if stands is None else _with_history(row, stands)
            self._write(anew._replace(paused=False))

    def _write(self, row: Schedule) -> None:
        query = f"INSERT OR REPLACE INTO schedules VALUES ({_PLACES})"  # noqa: S608  marks only
        self.connection().execute(query, row)

    # looking

    def schedule(self, name: str) -> Schedule | None:
        """Return the schedule of a name, if there is one."""
        found = self._schedules("name = ?", name)
        return found[0] if found else None

    def schedules(self) -> list[Schedule]:
        """Return all schedules, by name."""
        return self._schedules("1 ORDER BY name")

    def active_schedules(self) -> list[Schedule]:
        """Return the schedules that have a next moment."""
        return self._schedules("active = 1 AND next_at IS NOT NULL")

    def outdated_schedules(self, incarnation: str) -> list[Schedule]:
        """Return the declared schedules that this incarnation didn't declare."""
        return self._schedules("origin = 'declared' AND incarnation != ?", incarnation)

    def _schedules(self, where: str, *values: object) -> list[Schedule]:
        query = f"SELECT {_COLUMNS} FROM schedules WHERE {where}"  # noqa: S608  constants only
        return [Schedule(*row) for row in self.connection().execute(query, values)]

    def due_schedules(self, now: float, limit: int) -> list[tuple[Schedule, Standing | None]]:
        """Return the schedules that are due, each with where its last message stands."""
        return self._with_standing(_FIRES, now, limit)

    def asked_schedules(self, limit: int) -> list[tuple[Schedule, Standing | None]]:
        """Return the schedules of which somebody asked for a firing now."""
        return self._with_standing(_ASKED, limit)

    def _with_standing(self, where: str, *values: object) -> list[tuple[Schedule, Standing | None]]:
        query = (
            f"SELECT {_PREFIXED}, w.delivery, w.state, w.spool, w.executor FROM schedules s"  # noqa: S608
            f" LEFT JOIN waiting w ON w.id = s.last_id WHERE {where}"
        )
        return [
            (Schedule(*row[:-4]), None if row[-1] is None else Standing(*row[-4:]))
            for row in self.connection().execute(query, values)
        ]

    def next_schedule(self) -> float | None:
        """Return when the next schedule is due; 0 where somebody asked for one now."""
        connection = self.connection()
        if connection.execute("SELECT 1 FROM schedules WHERE asked_id != '' LIMIT 1").fetchone():
            return 0.0
        found = connection.execute(
            "SELECT min(next_at) FROM schedules WHERE active = 1 AND paused = 0"
        )
        moment: float | None = found.fetchone()[0]
        return moment

    # changing

    def advance(self, rows: Iterable[Schedule]) -> None:
        """Write down what became of schedules that were due."""
        self.connection().executemany(
            "UPDATE schedules SET iterations = ?, active = ?, moment = ?, next_at = ?,"
            " last_at = ?, last_id = ?, asked_id = ?, fired = ?, missed = ?, skipped = ?"
            " WHERE name = ?",
            [
                (
                    row.iterations,
                    row.active,
                    row.moment,
                    row.next_at,
                    row.last_at,
                    row.last_id,
                    row.asked_id,
                    row.fired,
                    row.missed,
                    row.skipped,
                    row.name,
                )
                for row in rows
            ],
        )

    def pause_schedule(self, name: str) -> None:
        """Let a schedule not fire until it is resumed."""
        self.connection().execute("UPDATE schedules SET paused = 1 WHERE name = ?", (name,))

    def resume_schedule(self, row: Schedule) -> None:
        """Let a schedule fire again, at the moments that the row has."""
        self.connection().execute(
            "UPDATE schedules SET paused = 0, moment = ?, next_at = ? WHERE name = ?",
            (row.moment, row.next_at, row.name),
        )

    def ask(self, name: str, ident: str) -> str:
        """Let a schedule fire now, beside its moments; return the id of what it submits."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE schedules SET asked_id = ? WHERE name = ? AND asked_id = ''", (ident, name)
            )
            found = connection.execute("SELECT asked_id FROM schedules WHERE name = ?", (name,))
            row = found.fetchone()
        return row[0] if row else ""

    def stop(self, name: str) -> bool:
        """Stop a schedule; False if it didn't run."""
        cursor = self.connection().execute(
            "UPDATE schedules SET active = 0 WHERE name = ? AND active = 1", (name,)
        )
        return cursor.rowcount > 0

    def remove_schedules(self, names: Iterable[str]) -> None:
        """Forget schedules."""
        self.connection().executemany(
            "DELETE FROM schedules WHERE name = ?", [(name,) for name in names]
        )

    def flush(self) -> None:
        """Let everything that was committed reach the disk."""
        with self.flushed(True) as connection:  # a commit flushes what others left in the log
            connection.execute(
                "UPDATE schedules SET fired = fired WHERE name = (SELECT max(name) FROM schedules)"
            )

    # firings for workers

    def add_firing(self, target: str, ident: str, envelope: bytes) -> None:
        """Write down that a schedule is due in the workers of a target.

        Args:
            target: The target.
            ident: Id of the message.
            envelope: The message, signed.
        """
        self.connection().execute(
            "INSERT INTO firings (target, id, envelope, fired_at, taken_by) VALUES (?, ?, ?, ?, 0)",
            (target, ident, envelope, time.time()),
        )

    def take_firing(self, target: str) -> Firing | None:
        """Take the oldest firing of a target in hand; each is given to one taker."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT seq, target, envelope FROM firings WHERE target = ? AND taken_by = 0"
                " ORDER BY seq LIMIT 1",
                (target,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE firings SET taken_by = ? WHERE seq = ?", (os.getpid(), row[0])
            )
            return Firing(*row)

    def end_firing(self, seq: int) -> None:
        """Forget a firing that was taken and is over."""
        self.connection().execute("DELETE FROM firings WHERE seq = ?", (seq,))

    def taker(self, ident: str) -> int | None:
        """Return the pid that has a firing in hand, 0 for nobody yet; ``None``: it is over."""
        found = self.connection().execute("SELECT taken_by FROM firings WHERE id = ?", (ident,))
        row = found.fetchone()
        return None if row is None else row[0]

    def firings_after(self, target: str, seq: int) -> list[Firing]:
        """Return the firings of a target that came after a number."""
        rows = self.connection().execute(
            "SELECT seq, target, envelope FROM firings WHERE target = ? AND seq > ? ORDER BY seq",
            (target, seq),
        )
        return [Firing(*row) for row in rows]

    def targets_after(self, seq: int) -> list[tuple[str, int]]:
        """Return the targets that firings after a number are for, each with its last number."""
        return list(
            self.connection().execute(
                "SELECT target, max(seq) FROM firings WHERE seq > ? AND taken_by = 0"
                " GROUP BY target",
                (seq,),
            )
        )

    def last_firing(self, before: float) -> int:
        """Return the number of the latest firing that came before a moment, 0 for none."""
        found = self.connection().execute(
            "SELECT max(seq) FROM firings WHERE fired_at < ?", (before,)
        )
        return found.fetchone()[0] or 0


def _merged(stands: Schedule | None, row: Schedule) -> Schedule | None:
    """Return what follows from a declaration, ``None`` where nothing changes."""
    if stands is None:
        return row
    if stands.incarnation == row.incarnation:
        return None
    anew = _with_history(row, stands)
    if stands.digest != row.digest or stands.origin == ADDED or row.iterations is not None:
        return anew
    if not stands.active or stands.next_at is None:
        return anew
    return anew._replace(moment=stands.moment, next_at=stands.next_at)


def _with_history(row: Schedule, stands: Schedule) -> Schedule:
    return row._replace(
        paused=stands.paused,
        last_at=stands.last_at,
        last_id=stands.last_id,
        fired=stands.fired,
        missed=stands.missed,
        skipped=stands.skipped,
    )
