"""What is scheduled: the rows of schedules, and their firings for workers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..model import Schedule
from .database import Database


class Firing(NamedTuple):
    """A schedule that is due in a worker: signals carry no content, so it lies here."""

    seq: int
    target: str
    name: str
    number: int


class Schedules(Database):
    """The schedules of a home."""

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
