"""What is told of a run and asked of it while it lasts: its progress, and that it is to stop.

One mapped file of the home, a slot per process that takes messages. Telling is a memory copy.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

from . import files

SOFTLY, KILLED = 1, 2
_SIZE, _SLOTS = 512, 255
_STOP = struct.Struct("<36sIB")
_TOLD, _TOLD_AT = struct.Struct("<36sdddd"), 64
_NUMBERS, _NUMBERS_AT = struct.Struct("<ddd"), _TOLD_AT + 36
_TEXT_AT = 192
_MOST_TEXT = _SIZE - _TEXT_AT
_UNKNOWN = float("nan")


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done: What it told last.
        total: Of how much; ``None`` where it isn't known.
        message: Its own words.
        updated_at: Epoch seconds at which it told so.
        first_done: What it told first.
        first_at: Epoch seconds at which it told first.
    """

    done: float
    total: float | None
    message: str
    updated_at: float
    first_done: float
    first_at: float


class Board:
    """The board of a home.

    Life: mapped by each process at its first use; a record of ``inflight`` has the slot of its
    number.

    Args:
        path: The mapped file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._map: mmap.mmap | None = None

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            descriptor, self._map = files.map_file(self.path, _SLOTS * _SIZE)
            os.close(descriptor)
        return self._map

    def open(self) -> None:
        """Map the file now, while there is room for it.

        Raises:
            HomeError: It can't be.
        """
        self._mapped()

    # progress

    def begin_telling(self, place: int, ident: str) -> memoryview:
        """Return the slot of this process, cleared for a run that tells its progress."""
        data, at = self._mapped(), place * _SIZE
        data[at + _TOLD_AT : at + _SIZE] = bytes(_SIZE - _TOLD_AT)
        data[at + _TOLD_AT : at + _TOLD_AT + 36] = ident.encode()
        return memoryview(data)[at : at + _SIZE]

    def progress(self, place: int, ident: str) -> Progress | None:
        """Return how far the run of a place is, or ``None`` if it hasn't told."""
        if not os.path.exists(self.path):
            return None
        data, at = self._mapped(), place * _SIZE
        slot = data[at : at + _SIZE]
        for _ in range(3):  # two equal looks: nobody was writing
            before, slot = slot, data[at : at + _SIZE]
            if slot == before:
                break
        whose, done, total, updated_at, first_done = _TOLD.unpack_from(slot, _TOLD_AT)
        (first_at,) = struct.unpack_from("<d", slot, _TOLD_AT + _TOLD.size)
        if whose != ident.encode() or not updated_at:
            return None
        text = slot[_TEXT_AT:].partition(b"\0")[0].decode("utf-8", "replace")
        known = None if total != total else total
        return Progress(done, known, text, updated_at, first_done, first_at)

    # stops

    def ask_to_stop(self, place: int, ident: str, delivery: int, how: int) -> None:
        """Write down that a delivery is to stop, softly or by the death of its process."""
        _STOP.pack_into(self._mapped(), place * _SIZE, ident.encode(), delivery, how)

    def is_asked_to_stop(self, place: int, ident: str, delivery: int) -> int:
        """Return how a delivery is to stop; 0: it isn't."""
        if self._map is None and not os.path.exists(self.path):
            return 0
        whose, which, how = _STOP.unpack_from(self._mapped(), place * _SIZE)
        return int(how) if whose == ident.encode() and which == delivery else 0

    def stops(self) -> list[tuple[int, str, int]]:
        """Return place, id and delivery of what was asked to stop softly."""
        if self._map is None and not os.path.exists(self.path):
            return []
        found = []
        for place in range(_SLOTS):
            whose, which, how = _STOP.unpack_from(self._mapped(), place * _SIZE)
            if how == SOFTLY:
                found.append((place, whose.rstrip(b"\0").decode("ascii", "replace"), which))
        return found


class Teller:
    """Tells the progress of one run; cheap enough for a tight loop.

    Args:
        slot: Of the board; ``None`` where nobody outside can look.
    """

    __slots__ = ("_slot", "_text", "first", "last")

    def __init__(self, slot: memoryview | None) -> None:
        self._slot = slot
        self._text = ""
        self.first: tuple[float, float] | None = None
        self.last: tuple[float, float | None, float] = (0.0, None, 0.0)

    def tell(self, done: float, total: float | None, message: str) -> None:
        """Write down how far the run is."""
        now = time.time()
        self.last = (done, total, now)
        slot = self._slot
        if slot is not None:
            known = _UNKNOWN if total is None else total
            _NUMBERS.pack_into(slot, _NUMBERS_AT, done, known, now)
        if self.first is None:
            self.first = (done, now)
            if slot is not None:
                struct.pack_into("<dd", slot, _NUMBERS_AT + _NUMBERS.size, done, now)
        if message != self._text:
            self._text = message
            if slot is not None:
                text = message.encode("utf-8", "replace")[: _MOST_TEXT - 1]
                slot[_TEXT_AT:] = text.ljust(_MOST_TEXT, b"\0")

    def progress(self) -> Progress | None:
        """Return what was told last, or ``None`` if nothing was."""
        if self.first is None:
            return None
        done, total, now = self.last
        return Progress(done, total, self._text, now, *self.first)
