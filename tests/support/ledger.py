"""The test's side of the ledger: what tasks wrote down, and waiting for it with a deadline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def wait_until(condition: Callable[[], Any], timeout: float = 10.0, what: str = "") -> Any:
    """Poll a condition until it gives something true, and return that.

    Raises:
        AssertionError: It didn't, by the deadline.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}; last: {found!r}")
        time.sleep(0.01)


class Ledger:
    """Rows that tasks appended, one JSON object a line."""

    def __init__(self, path: Path, explain: Callable[[], str]) -> None:
        self.path = path
        self._explain = explain

    def rows(self, event: str | None = None, **match: Any) -> list[Row]:
        """Return the rows of that event (any, if none is named) whose fields match."""
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        wanted = {**match, **({"event": event} if event else {})}
        found = [json.loads(line) for line in lines]
        return [row for row in found if all(row.get(k) == v for k, v in wanted.items())]

    def wait(
        self, event: str | None = None, *, count: int = 1, timeout: float = 10.0, **match: Any
    ) -> list[Row]:
        """Return the matching rows as soon as there are at least that many.

        Raises:
            AssertionError: There weren't by the deadline; it shows the ledger and the log.
        """
        deadline = time.monotonic() + timeout
        while True:
            rows = self.rows(event, **match)
            if len(rows) >= count:
                return rows
            if time.monotonic() > deadline:
                wanted = f"{event or 'row'} {match or ''}"
                shown = "\n".join(map(str, self.rows()[-30:]))
                raise AssertionError(
                    f"{len(rows)} of {count} rows {wanted} within {timeout} s.\n"
                    f"Ledger (last 30):\n{shown}\n{self._explain()}"
                )
            time.sleep(0.01)

    def wait_one(self, event: str | None = None, *, timeout: float = 10.0, **match: Any) -> Row:
        """Return the only matching row, as soon as it is there."""
        rows = self.wait(event, timeout=timeout, **match)
        assert len(rows) == 1, f"one row expected: {rows}"
        return rows[0]
