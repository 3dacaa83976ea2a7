"""What a directory tells of who reads it: how often uWSGI scanned a spool."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_IN_OPEN, _IN_ISDIR, _IN_NONBLOCK = 0x20, 0x40000000, 0o4000
_EVENT = struct.Struct("iIII")


class Scans:
    """The scans of a directory since the watch began."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.moments: list[float] = []

    def count(self) -> int:
        """Return how often the directory was opened so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 65536):
                self.moments += [time.time()] * _opened(data)
        return len(self.moments)


def _opened(data: bytes) -> int:
    at = found = 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length]
        found += bool(mask & _IN_ISDIR and mask & _IN_OPEN and not name.strip(b"\0"))
        at += _EVENT.size + length
    return found


@contextlib.contextmanager
def scans(directory: Path) -> Iterator[Scans]:
    """Count who opens a directory, by inotify."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_IN_NONBLOCK)
    try:
        assert libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_OPEN) >= 0
        yield Scans(descriptor)
    finally:
        os.close(descriptor)


def switches(pid: int) -> dict[str, int]:
    """Return how often each thread of a process went to sleep of its own accord."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        lines = Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("voluntary_ctxt_switches")]
        found[task] = int(line.split()[1])
    return found
