"""Signals of the parent, taken one by one in its main thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import types
from typing import Any

_TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """Keeps signals until they are asked for; use it as a context."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, Any] = {}
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in _TAKEN}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._came.append(number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"s")

    def wait(self, seconds: float) -> int:
        """Return the next signal; 0 after that time, or earlier when a child ended."""
        waiter = select.poll()  # select() knows no descriptor above 1023
        waiter.register(self._read, select.POLLIN)
        if not self._came and waiter.poll(seconds * 1000):
            os.read(self._read, 4096)
        return self._came.pop(0) if self._came else 0
