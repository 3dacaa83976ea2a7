"""The journal: what each process notes of the runs that it ended, appended, one write per run.

A process has a file of its own, ``journal/<place>.<serial>``, and goes on to the next serial when
one is large. Who reads begins where the last reader left off, so that nothing is read twice. What
a death or a full disk left half written, and what isn't ours, is passed over.

```
"UWJ" version · bytes that follow the checksum · CRC-32 of them
fixed fields · task · queue · reason · error · details (JSON) · result
```
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .model import DEFAULT_QUEUE, Message

OK, DEAD, EXPIRED, CANCELLED = 1, 3, 4, 5
FINAL_STATES = {OK: "ok", DEAD: "dead", EXPIRED: "expired", CANCELLED: "cancelled"}
"""The numbers of the final states, as the table of what is over has them."""

_MAGIC = b"UWJ\1"
_HEAD = struct.Struct("<4sII")
_FIXED = struct.Struct("<36sBBdddddIIIIIHHHHII")
_MOST_BYTES = 4 << 20
_SHORT = 60_000
_NO_PRIORITY = float("nan")


class Record(NamedTuple):
    """How one message ended: what the history keeps of it.

    Attributes:
        id: The message's id.
        state: A key of ``FINAL_STATES``.
        task: Name of the task.
        queue: Label of its queue.
        executor: A number of ``TaskExecutor``.
        priority: Smaller ran sooner; ``None``: none asked for.
        created_at: Epoch seconds of the call.
        started_at: Epoch seconds of its last attempt; 0: it never started.
        finished_at: Epoch seconds.
        due_at: Epoch seconds before which it didn't run; 0: at once.
        attempt: Number of its last attempt.
        delivery: Which of its deliveries ended.
        crashes: Deaths of its process.
        interruptions: Stops and reloads of the server while it ran.
        pid: Of the process of its last attempt; 0: it never started.
        reason: Why, in a few words.
        error: Type and text of the last exception.
        details: JSON of what else is kept: traceback, attempts, progress, log lines.
        result: The signed result, or nothing.
    """

    id: str
    state: int
    task: str
    queue: str
    executor: int
    priority: float | None
    created_at: float
    started_at: float
    finished_at: float
    due_at: float = 0.0
    attempt: int = 1
    delivery: int = 1
    crashes: int = 0
    interruptions: int = 0
    pid: int = 0
    reason: str = ""
    error: str = ""
    details: bytes = b""
    result: bytes = b""


def pack(record: Record) -> bytes:
    """Return the bytes of a record."""
    (ident, state, task, queue, executor, priority, created, started, finished, due, attempt,
     delivery, crashes, interruptions, pid, reason, error, details, result) = record  # fmt: skip
    words = task.encode()
    label = b"" if queue == DEFAULT_QUEUE else queue.encode()
    why = reason.encode("utf-8", "backslashreplace")[:_SHORT] if reason else b""
    what = error.encode("utf-8", "backslashreplace")[:_SHORT] if error else b""
    fixed = _FIXED.pack(
        ident.encode(),
        state,
        executor,
        _NO_PRIORITY if priority is None else priority,
        created,
        started,
        finished,
        due,
        attempt,
        delivery,
        crashes,
        interruptions,
        pid,
        len(words),
        len(label),
        len(why),
        len(what),
        len(details),
        len(result),
    )
    body = b"".join((fixed, words, label, why, what, details, result))
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def pack_plain(message: Message, executor: int, started_at: float, pid: int) -> bytes:
    """Return the bytes of the record of a run that is ok now, and of which nothing else is kept.

    The same as ``pack`` gives, in a third of the time: nearly every run ends like this.
    """
    words = message.task.encode()
    label = b"" if message.queue == DEFAULT_QUEUE else message.queue.encode()
    priority = message.priority
    body = (
        _FIXED.pack(
            message.id.encode(),
            OK,
            executor,
            _NO_PRIORITY if priority is None else priority,
            message.created_at,
            started_at,
            time.time(),
            message.at,
            message.attempt,
            message.delivery,
            message.crashes,
            message.interruptions,
            pid,
            len(words),
            len(label),
            0,
            0,
            0,
            0,
        )
        + words
        + label
    )
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def unpack(body: bytes) -> Record:
    """Return the record whose bytes follow a head.

    Raises:
        ValueError: It is none.
    """
    if len(body) < _FIXED.size:
        raise ValueError("too short")
    (ident, state, executor, priority, created, started, finished, due, attempt, delivery,
     crashes, interruptions, pid, *sizes) = _FIXED.unpack_from(body)  # fmt: skip
    if _FIXED.size + sum(sizes) != len(body) or state not in FINAL_STATES:
        raise ValueError("its parts don't add up")
    parts, at = [], _FIXED.size
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    task, queue, reason, error = (part.decode("utf-8", "replace") for part in parts[:4])
    return Record(
        ident.rstrip(b"\0").decode("ascii", "replace"),
        state,
        task,
        queue or DEFAULT_QUEUE,
        executor,
        None if priority != priority else priority,
        created,
        started,
        finished,
        due,
        attempt,
        delivery,
        crashes,
        interruptions,
        pid,
        reason,
        error,
        parts[4],
        parts[5],
    )


def records(data: bytes, start: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield the records of a file's bytes, each with the offset behind it.

    What is no record is passed over: reading goes on at the next thing that looks like one.
    """
    at = start
    while (at := data.find(_MAGIC, at)) >= 0:
        found = _record_at(data, at)
        if found is None:
            at += 1
        else:
            at, record = found
            yield at, record


def _record_at(data: bytes, at: int) -> tuple[int, Record] | None:
    if at + _HEAD.size > len(data):
        return None
    magic, size, checksum = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + size
    if magic != _MAGIC or end > len(data):
        return None
    body = data[at + _HEAD.size : end]
    if zlib.crc32(body) != checksum:
        return None
    try:
        return end, unpack(body)
    except ValueError:
        return None


def find(data: bytes, ident: str) -> Record | None:
    """Return the last record of an id in a file's bytes."""
    wanted, at = ident.encode(), len(data)
    while (at := data.rfind(wanted, 0, at)) >= 0:
        found = _record_at(data, at - _HEAD.size) if at >= _HEAD.size else None
        if found is not None and found[1].id == ident:
            return found[1]
    return None


class Journal:
    """The journals of a home.

    Life: made before the fork; each process that takes messages begins a file of its own.

    Args:
        folder: Their folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.place: int | None = None
        self.pid = 0
        self._descriptor = -1
        self._written = 0

    def begin(self, place: int | None) -> None:
        """Let this process append, to files of that place, which is its own while it lives."""
        self.place, self.pid, self._descriptor = place, os.getpid(), -1

    def append(self, data: bytes) -> None:
        """Append the bytes of a record to this process's own file.

        Raises:
            OSError: They can't be written.
        """
        if self._descriptor < 0:
            self._open()
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self._open()  # a task may have closed it
            written = os.write(self._descriptor, data)
        self._written += written
        if written < len(data):
            self._close()  # the disk is full; nothing is written behind a half record
            raise OSError(errno.ENOSPC, "only a part of a record was written")
        if self._written > _MOST_BYTES:
            self._close()

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        found = map(_parts, self.names())
        serial = max((number for place, number in found if place == self.place), default=0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        name = f"{self.place}.{serial + 1}"
        self._descriptor, self._written = os.open(self.path(name), flags, 0o600), 0

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def abandon(self) -> None:
        """Go on with a new file: somebody closed the descriptors of this process."""
        self._descriptor = -1

    # reading

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, name)

    def names(self) -> list[str]:
        """Return the names of the files, of each place the oldest first."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted((name for name in names if _parts(name) != (-1, -1)), key=_parts)

    def sizes(self) -> dict[str, int]:
        """Return the size of each file."""
        sizes = {}
        for name in self.names():
            with contextlib.suppress(OSError):
                sizes[name] = os.stat(self.path(name)).st_size
        return sizes

    def read(self, name: str, start: int = 0, most: int = -1) -> bytes:
        """Return bytes of a file; none where it is gone."""
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                file.seek(start)
                return file.read(most) or b""
        except OSError:
            return b""

    def is_closed(self, name: str, names: list[str]) -> bool:
        """Tell whether nothing is appended to a file any more: its place has a later one."""
        place, serial = _parts(name)
        return any(where == place and number > serial for where, number in map(_parts, names))

    def remove(self, name: str) -> None:
        """Remove a file that was read to its end."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def find(self, ident: str) -> Record | None:
        """Return the last record of an id, the files' ends first."""
        found = []
        for name in self.names():
            record = find(self.read(name), ident)
            if record is not None:
                found.append(record)
        return max(found, key=lambda record: record.finished_at, default=None)


def _parts(name: str) -> tuple[int, int]:
    place, _, serial = name.partition(".")
    return (int(place), int(serial)) if place.isdigit() and serial.isdigit() else (-1, -1)
