"""One mapped page of the home: flags and counters that every process sees at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import struct
import threading
import time
import zlib
from collections.abc import Iterator

from . import files
from .errors import HomeError

FLAGS_SIZE = 4096
_PAUSED, _PRIORITIES, _ACTIVE, _SOME_PAUSED = 0, 1, 2, 3
_RELOADED, _INCARNATION, _TIMED, _PLANNED = 4, 8, 12, 24
_PAUSED_SPOOLS, _SPOOL_SLOTS = 512, 64
_SIGNAL = 16
_MULES = 1024
_MULE_SLOTS = 257
_COUNTERS = 3072
COUNTERS = (
    "mule_full",
    "mule_rerouted",
    "dead_dropped",
    "refused",
    "passed_over",
    "crashed",
    "interrupted",
    "history_lost",
)
"""What is counted over the life of a home, in the order in which it lies there."""
_TAG = struct.Struct("<I")
_MOMENT = struct.Struct("<d")
_RELOADING = 2


class Flags:
    """The page of a home.

    Args:
        path: The home.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._flags: mmap.mmap | None = None
        self._inode = 0
        self._lock = threading.Lock()

    def file(self, *names: str) -> str:
        """Return the path of something in the home."""
        return os.path.join(self.path, *names)

    def flags(self) -> mmap.mmap:
        """Return the mapped page that all processes of the home share."""
        if self._flags is None:
            descriptor, self._flags = files.map_file(self.file("flags"), FLAGS_SIZE)
            self._inode = os.fstat(descriptor).st_ino
            os.close(descriptor)
        return self._flags

    def is_replaced(self) -> bool:
        """Tell whether the page was removed, with its home, and perhaps made anew."""
        self.flags()
        try:
            return os.stat(self.file("flags")).st_ino != self._inode
        except FileNotFoundError:
            return True

    def is_paused(self, spool: str = "") -> bool:
        """Tell whether taking tasks is paused, everywhere or from that spool directory."""
        flags = self.flags()
        if flags[_PAUSED]:
            return True
        return bool(flags[_SOME_PAUSED] and spool) and self.is_spool_paused(spool)

    def is_spool_paused(self, spool: str) -> bool:
        """Tell whether taking tasks from that spool directory was paused by itself."""
        return _spool_tag(spool) in self._paused_spools()

    def _paused_spools(self) -> list[int]:
        table = self.flags()[_PAUSED_SPOOLS : _PAUSED_SPOOLS + 4 * _SPOOL_SLOTS]
        return [tag for (tag,) in _TAG.iter_unpack(table)]

    def pause_spool(self, spool: str, on: bool) -> None:
        """Pause or resume the taking of tasks from one spool directory.

        Raises:
            HomeError: Too many are paused.
        """
        tag, fifo, flags = _spool_tag(spool), self._fifo_of(spool), self.flags()
        with self._lock, open(self.file("flags"), "rb+") as file, self._opened(fifo) as told:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, _SOME_PAUSED)
            tags = [other for other in self._paused_spools() if other not in (0, tag)]
            if on:
                _empty(told)
                tags.append(tag)
            if len(tags) > _SPOOL_SLOTS:
                raise HomeError(errno.ENOSPC, f"{_SPOOL_SLOTS} queues are paused; resume one")
            table = b"".join(_TAG.pack(tag) for tag in tags).ljust(4 * _SPOOL_SLOTS, b"\0")
            flags[_PAUSED_SPOOLS : _PAUSED_SPOOLS + len(table)] = table
            flags[_SOME_PAUSED] = bool(tags)
            if not on:
                with contextlib.suppress(BlockingIOError):
                    os.write(told, b"r")  # nobody reads it: all who wait see it

    def _fifo_of(self, spool: str) -> str:
        path = self.file(f"resumed-{_spool_tag(spool):08x}")
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        return path

    def pause(self, on: bool, *, until_reload: bool = False) -> None:
        """Pause or resume the taking of tasks, for every process of the home.

        Args:
            on: Pause.
            until_reload: The next incarnation of the server resumes.
        """
        with self._opened(self.file("resumed")) as fifo:
            if on:
                _empty(fifo)
                flags = self.flags()
                flags[_RELOADED : _RELOADED + 4] = flags[_INCARNATION : _INCARNATION + 4]
                flags[_PAUSED] = _RELOADING if until_reload else 1
            else:
                self.flags()[_PAUSED] = 0
                with contextlib.suppress(BlockingIOError):
                    os.write(fifo, b"r")  # nobody reads it: all who wait see it

    def note_incarnation(self, incarnation: str) -> None:
        """Write down which start of the server serves this home."""
        self.flags()[_INCARNATION : _INCARNATION + 4] = _tag(incarnation)

    def is_timed(self, incarnation: str) -> bool:
        """Tell whether somebody has kept time in this incarnation of the server."""
        return self.flags()[_TIMED : _TIMED + 4] == _tag(incarnation)

    def note_timed(self, incarnation: str) -> None:
        """Write down that somebody keeps time in this incarnation of the server."""
        self.flags()[_TIMED : _TIMED + 4] = _tag(incarnation)

    def resume_after_reload(self, incarnation: str) -> None:
        """Resume what was paused for a reload, in the incarnation that follows it."""
        flags = self.flags()
        before = flags[_RELOADED : _RELOADED + 4]
        if flags[_PAUSED] == _RELOADING and before != _tag(incarnation):
            self.pause(False)

    def wait_resumed(self, seconds: float, spool: str = "") -> bool:
        """Sleep until taking tasks is resumed, or for that long; tell whether it is."""
        deadline = time.monotonic() + seconds
        while self.is_paused(spool) and time.monotonic() < deadline:
            everywhere = self.is_paused()
            with self._opened(self.file("resumed") if everywhere else self._fifo_of(spool)) as fifo:
                self._wait_told(fifo, deadline, "" if everywhere else spool)
        return not self.is_paused(spool)

    def _wait_told(self, fifo: int, deadline: float, spool: str) -> None:
        waiter = select.poll()
        waiter.register(fifo, select.POLLIN)
        while self.is_paused(spool) and (left := deadline - time.monotonic()) > 0:
            if spool and self.is_paused():
                return  # everything is, by now
            # a byte that a pause just before hasn't taken out yet tells nothing: look again
            if waiter.poll(min(left * 1000, 1e9)) and self.is_paused(spool):
                time.sleep(0.05)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield fifo
        finally:
            os.close(fifo)

    # counts

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of ``COUNTERS``."""
        at, flags = _COUNTERS + 8 * COUNTERS.index(name), self.flags()
        with self._lock, open(self.file("flags"), "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, at)
            value = int.from_bytes(flags[at : at + 8], "little") + number
            flags[at : at + 8] = value.to_bytes(8, "little")

    def counters(self) -> dict[str, int]:
        """Return what was counted over the life of the home."""
        flags = self.flags()
        starts = [_COUNTERS + 8 * place for place in range(len(COUNTERS))]
        values = [int.from_bytes(flags[at : at + 8], "little") for at in starts]
        return dict(zip(COUNTERS, values, strict=True))

    def priorities_wait(self) -> bool:
        """Tell whether prioritised tasks wait, so that ordinary ones have to queue with them."""
        return self.flags()[_PRIORITIES] != 0

    def mark_priorities(self, *, wait: bool) -> None:
        """Write down whether prioritised tasks wait."""
        flags = self.flags()
        if flags[_PRIORITIES] != wait:
            flags[_PRIORITIES] = int(wait)

    # when the timekeeper looks again

    def note_activity(self) -> bool:
        """Note that a task entered a spool; tell whether nothing was noted before."""
        flags = self.flags()
        if flags[_ACTIVE]:
            return False
        flags[_ACTIVE] = 1
        return True

    def forget_activity(self) -> None:
        """Note that no task lies in a spool."""
        self.flags()[_ACTIVE] = 0

    def plan_look(self, moment: float) -> None:
        """Write down until when the timekeeper sleeps: epoch seconds, infinite while it works."""
        # in one piece: whoever reads it meanwhile sees the old moment or the new one
        self.flags()[_PLANNED : _PLANNED + 8] = _MOMENT.pack(moment)

    def planned_look(self) -> float:
        """Return until when the timekeeper sleeps; what is due sooner has to wake it."""
        moment: float = _MOMENT.unpack(self.flags()[_PLANNED : _PLANNED + 8])[0]
        return moment

    def lazy_signal(self) -> int | None:
        """Return the signal that workers registered for themselves under lazy-apps."""
        number = int.from_bytes(self.flags()[_SIGNAL : _SIGNAL + 2], "little")
        return number - 1 if number else None

    def note_lazy_signal(self, number: int) -> None:
        """Write down the signal that a worker registered for itself."""
        self.flags()[_SIGNAL : _SIGNAL + 2] = (number + 1).to_bytes(2, "little")

    def announce_mule(self, number: int, incarnation: str) -> None:
        """Write down that a mule of this incarnation of the server runs the library."""
        at = _MULES + 4 * number
        self.flags()[at : at + 4] = _tag(incarnation)

    def announced_mules(self, incarnation: str) -> list[int]:
        """Return the numbers of the mules that run the library."""
        numbers = range(1, _MULE_SLOTS)
        return [number for number in numbers if self.is_mule_announced(number, incarnation)]

    def is_mule_announced(self, number: int, incarnation: str) -> bool:
        """Tell whether the mule of that number runs the library."""
        at = _MULES + 4 * number
        return self.flags()[at : at + 4] == _tag(incarnation)


def _tag(incarnation: str) -> bytes:
    """Return four bytes that tell one start of the server from the others; never zeros."""
    return (zlib.crc32(incarnation.encode()) or 1).to_bytes(4, "little")


def _empty(fifo: int) -> None:
    """Read all that is in a FIFO: who waits on it goes on waiting."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fifo, 65536):
            pass


def _spool_tag(spool: str) -> int:
    """Return a number that tells a spool directory from others; never 0."""
    return zlib.crc32(os.fsencode(spool)) or 1
