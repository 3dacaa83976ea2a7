"""What each process has in hand, and what is over: one mapped file that outlives every process.

A *record* per consumer process says which message it runs; it is written before anything of the
task is touched, so that a death by SIGKILL leaves it there. When a message is over its id goes
into the *over* table, before uWSGI removes its file. Both cost some memory copies: no system call.

```
0      magic, how many records are in use, whose server was stopped in order and when
4096   the records, 128 bytes each
36864  the over table: buckets of eight entries of 16 bytes
```
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import struct
import threading
import time
from typing import NamedTuple

from . import files

FREE, BEGUN, OVER = 0, 1, 2
OK, RETRIED, DEAD, EXPIRED, CANCELLED, AGAIN = 1, 2, 3, 4, 5, 6
STATES = {OK: "ok", RETRIED: "retry", DEAD: "dead", EXPIRED: "expired", CANCELLED: "cancelled"}
SPOOLER, MULE = 1, 2

_MAGIC = b"UWTF\1"
_USED = 8
_STOPS, _STOP = 64, struct.Struct("<IId")
_STOP_ENTRIES = 64
_RECORDS, _SIZE, MOST = 4096, 128, 255
_RUN = struct.Struct("<36sIdB")
_STATE = _RUN.size - 1
_MARK, _MARK_AT = struct.Struct("<d"), 56
_OWNER, _OWNER_AT, _PID_AT = struct.Struct("<BHIQII"), 64, 64 + 3
_HANDLING, _WORD, _SPACE_AT = 96, 97, 104
_BUCKETS, _BUCKET, _ENTRY = 8192, 128, struct.Struct("<8sIBB2x")
_NEW_ENTRY = struct.Struct("<8sIBB")
_OVER = _RECORDS + MOST * _SIZE
_TOTAL = _OVER + _BUCKETS * _BUCKET
_HAND_SIZE = 65536 + 8
_EXITING = 0x4
"""PF_EXITING of Linux's ``sched.h``: descriptors are closed before children get a new parent."""
_fence = threading.Lock()


class Instance(NamedTuple):
    """One start of a server: its master's pid, and when it started."""

    master: int
    started_on: int


class Record(NamedTuple):
    """What a process had in hand.

    Attributes:
        place: Number of the record.
        id: The message's id.
        delivery: Which of its deliveries.
        started_at: Epoch seconds at which it was begun.
        state: ``BEGUN`` or ``OVER``.
        marked_at: Epoch seconds at which the process was told to end; 0 if it wasn't.
        kind: ``SPOOLER`` or ``MULE``.
        number: Number of the mule.
        pid: Of the process.
        clock: When the process started, in the kernel's ticks; with the pid it is unique.
        instance: The server that it belonged to.
    """

    place: int
    id: str
    delivery: int
    started_at: float
    state: int
    marked_at: float
    kind: int
    number: int
    pid: int
    clock: int
    instance: Instance


class Inflight:
    """The records and the over table of a home.

    Life: mapped by the first process that needs it and inherited over forks; each consumer process
    claims a record of its own at its start.

    Args:
        path: The mapped file.
        hands: Folder in which mules keep the message that they have in hand.
    """

    def __init__(self, path: str, hands: str) -> None:
        self.path = path
        self._hands = hands
        self._lock = threading.RLock()
        self._owner: tuple[int, int, Instance] | None = None
        self._hand: mmap.mmap | None = None
        self.place: int | None = None
        self.was_closed = False
        self._places: dict[int, int] = {}
        self._descriptor, self._map = files.map_file(path, _TOTAL)
        found = os.fstat(self._descriptor)
        self._identity = found.st_ino, found.st_dev
        if not self._map[0]:
            self._map[: len(_MAGIC)] = _MAGIC

    # one record per process

    def claim(self, kind: int, number: int, instance: Instance) -> None:
        """Take a record for this process, for as long as it lives.

        A record whose process is dead is taken only when nothing has to be learnt from it any more.
        """
        self._owner = (kind, number, instance)
        with self._lock:
            self._reopen_if_closed()
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _USED)  # one claimant at a time
            try:
                self._forget_words()
                self.place = next((n for n in range(MOST) if self._is_vacant(n)), None)
                if self.place is not None:
                    self._take(self.place)
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _USED)
        if kind == MULE and self.place is not None:
            descriptor, self._hand = files.map_file(self._hand_path(self.place), 2 * _HAND_SIZE)
            os.close(descriptor)

    def _take(self, place: int) -> None:
        assert self._owner is not None
        kind, number, instance = self._owner
        at, pid = _RECORDS + place * _SIZE, os.getpid()
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        self._map[at : at + _SIZE] = bytes(_SIZE)
        owner = _OWNER.pack(kind, number, pid, _clock_of(pid), *instance)
        self._map[at + _OWNER_AT : at + _OWNER_AT + _OWNER.size] = owner
        self._map[at + _SPACE_AT : at + _SIZE] = _space().ljust(_SIZE - _SPACE_AT, b"\0")
        self._map[_USED] = max(self._map[_USED], place + 1)

    def _is_vacant(self, place: int) -> bool:
        record = self.record(place)
        if record.pid == 0:
            return True
        return record.state != BEGUN and record.place != self.place and not self.is_alive(record)

    def keep(self) -> None:
        """Leave the record as it is, and go on with another one."""
        if self._owner is not None:
            self.claim(*self._owner)

    def begin(self, ident: str, delivery: int, envelope: bytes = b"") -> None:
        """Note what this process takes in hand, before anything of it is touched.

        Args:
            ident: The message's id.
            delivery: Which of its deliveries.
            envelope: The message, where no file holds it.
        """
        place = self.place
        if place is None:
            return
        if self._hand is not None:
            start = _hand_start(delivery)
            self._hand[start + 8 : start + 8 + len(envelope)] = envelope
            self._hand[start : start + 8] = len(envelope).to_bytes(8, "little")
        at = _RECORDS + place * _SIZE
        _RUN.pack_into(self._map, at, ident.encode(), delivery, time.time(), BEGUN)

    def end(self, ident: str, delivery: int, state: int) -> None:
        """Note that the delivery is over, before uWSGI removes its file."""
        self.note_over(ident, delivery, state)
        if self.place is not None:
            self._map[_RECORDS + self.place * _SIZE + _STATE] = OVER

    def release(self) -> None:
        """Note that this process has nothing in hand, and that nothing is over."""
        if self.place is not None:
            self._map[_RECORDS + self.place * _SIZE + _STATE] = FREE

    def mark(self) -> None:
        """Note that this process was told to end while it has something in hand."""
        if self.place is not None and os.getpid() == self.record(self.place).pid:
            at = _RECORDS + self.place * _SIZE + _MARK_AT
            self._map[at : at + 8] = _MARK.pack(time.time())

    # words between who writes a file and the spooler that is busy

    def enter(self) -> None:
        """Note that this spooler is in its handler: it is told of files by a word, not a signal."""
        if self.place is not None:
            self._map[_RECORDS + self.place * _SIZE + _HANDLING] = 1

    def leave(self) -> bool:
        """Note that this spooler leaves its handler; tell whether it has to scan again."""
        if self.place is None:
            return False
        at = _RECORDS + self.place * _SIZE
        self._map[at + _HANDLING] = 0
        with _fence:  # its atomic instructions: the other side sees the 0 before the word is read
            pass
        if not self._map[at + _WORD]:
            return False
        self._map[at + _WORD] = 0
        return True

    def leave_word(self, pid: int) -> bool:
        """Leave word that a file came for a spooler; False if it has to be told by a signal.

        One that is in its handler sees the word at the end. The word is written before its mark
        is read once more, and it takes the mark away before it reads the word: one of both sees
        the other's.
        """
        place = self._places.get(pid)
        if place is None or not self._is_of(place, pid):
            place = next((n for n in range(self._map[_USED]) if self._is_of(n, pid)), None)
            if place is None:
                return False
            self._places[pid] = place
        at = _RECORDS + place * _SIZE
        if not self._map[at + _HANDLING]:
            return False
        self._map[at + _WORD] = 1
        with _fence:
            pass
        return self._map[at + _HANDLING] != 0

    def _is_of(self, place: int, pid: int) -> bool:
        """Tell whether a record is of a process of this PID namespace."""
        at = _RECORDS + place * _SIZE
        return (
            self._map[at + _PID_AT : at + _PID_AT + 4] == pid.to_bytes(4, "little")
            and self._map[at + _SPACE_AT : at + _SPACE_AT + 8] == _space()
        )

    def _forget_words(self) -> None:
        """Take away what a dead process of the same pid, or this one's last record, left."""
        for place in range(self._map[_USED]):
            if self._is_of(place, os.getpid()):
                at = _RECORDS + place * _SIZE
                self._map[at + _HANDLING] = self._map[at + _WORD] = 0

    # looking

    def knows(self, ident: str) -> bool:
        """Tell, fast, whether something is noted of an id."""
        data = self._map
        if data.find(ident.encode(), _RECORDS, _RECORDS + data[_USED] * _SIZE) >= 0:
            return True
        key = bytes.fromhex(ident[20:])
        at = _OVER + ((key[0] | key[1] << 8) & (_BUCKETS - 1)) * _BUCKET
        return data.find(key, at, at + _BUCKET) >= 0

    def record(self, place: int) -> Record:
        """Return a record."""
        at = _RECORDS + place * _SIZE
        ident, delivery, started_at, state = _RUN.unpack_from(self._map, at)
        kind, number, pid, clock, master, started_on = _OWNER.unpack_from(self._map, at + _OWNER_AT)
        return Record(
            place,
            ident.rstrip(b"\0").decode("ascii", "replace"),
            delivery,
            started_at,
            state,
            _MARK.unpack_from(self._map, at + _MARK_AT)[0],
            kind,
            number,
            pid,
            clock,
            Instance(master, started_on),
        )

    def records(self) -> list[Record]:
        """Return the records in use."""
        return [self.record(place) for place in range(self._map[_USED])]

    def busy(self) -> list[Record]:
        """Return what living processes have in hand."""
        return [r for r in self.records() if r.state == BEGUN and self.is_alive(r)]

    def is_mine(self, record: Record) -> bool:
        """Tell whether the record is of this process."""
        return record.pid == os.getpid() and record.clock == _clock_of(record.pid)

    def is_alive(self, record: Record) -> bool:
        """Tell whether a record's process lives, perhaps in another container.

        By its pid and start, or by the lock that it holds on its record: a task that closed every
        descriptor lost the lock, and a pid of another container tells nothing here.
        """
        if record.clock and _clock_of(record.pid) == record.clock:
            return True
        with self._lock:
            self._reopen_if_closed()
            return files.is_locked(self._descriptor, _RECORDS + record.place * _SIZE, 1)

    def clear(self, record: Record) -> None:
        """Forget a dead process's record: what follows from it is written down."""
        at = _RECORDS + record.place * _SIZE
        if self.record(record.place) == record:
            self._map[at + _STATE] = FREE

    def forget_dead(self, ident: str, delivery: int) -> None:
        """Forget the records of dead processes that had a delivery in hand which is over."""
        for record in self.records():
            noted = record.id == ident and record.delivery <= delivery and record.state == BEGUN
            if noted and not self.is_alive(record):
                self.clear(record)

    def hand_of(self, record: Record) -> bytes:
        """Return the message that a mule had in hand."""
        with open(self._hand_path(record.place), "rb") as file:
            file.seek(_hand_start(record.delivery))
            size = int.from_bytes(file.read(8), "little")
            return file.read(size)

    # what is over

    def note_over(self, ident: str, delivery: int, state: int) -> None:
        """Remember that a delivery, and those before it, are over."""
        key = bytes.fromhex(ident[20:])
        at = _OVER + ((key[0] | key[1] << 8) & (_BUCKETS - 1)) * _BUCKET
        data = self._map
        turn = data[at + 15] & 7  # the oldest entry of the bucket gives way
        _NEW_ENTRY.pack_into(data, at + turn * 16, key, delivery, state, 0)
        data[at + 15] = (turn + 1) & 7

    def over_at(self, ident: str) -> tuple[int, int, int] | None:
        """Return the last delivery of an id that is over, its state, how often it came again."""
        key = bytes.fromhex(ident[20:])
        at = _OVER + ((key[0] | key[1] << 8) & (_BUCKETS - 1)) * _BUCKET
        bucket = self._map[at : at + _BUCKET]
        found = [e[1:] for e in _ENTRY.iter_unpack(bucket) if e[0] == key and e[1]]
        return max(found, default=None)

    def note_seen(self, ident: str) -> None:
        """Count that the file of a delivery that is over came again."""
        key = bytes.fromhex(ident[20:])
        at = _OVER + ((key[0] | key[1] << 8) & (_BUCKETS - 1)) * _BUCKET
        for entry in range(at, at + _BUCKET, 16):
            if self._map[entry : entry + 8] == key:
                self._map[entry + 13] = min(self._map[entry + 13] + 1, 255)

    # stops in order

    def note_stop(self, instance: Instance) -> None:
        """Note that a process of a server is being ended in order."""
        for at in range(_STOPS, _STOPS + _STOP_ENTRIES * _STOP.size, _STOP.size):
            master, started_on, _ = _STOP.unpack_from(self._map, at)
            if master == 0 or (master, started_on) == instance:
                self._map[at : at + _STOP.size] = _STOP.pack(*instance, time.time())
                return
        self._map[_STOPS : _STOPS + _STOP.size] = _STOP.pack(*instance, time.time())

    def forget_stop(self, instance: Instance) -> None:
        """Note that a server goes on: a process of it has started."""
        for at in range(_STOPS, _STOPS + _STOP_ENTRIES * _STOP.size, _STOP.size):
            if _STOP.unpack_from(self._map, at)[:2] == instance:
                self._map[at : at + _STOP.size] = bytes(_STOP.size)

    def stopped_at(self, instance: Instance) -> float:
        """Return when a server was last being stopped in order, 0 for never."""
        for at in range(_STOPS, _STOPS + _STOP_ENTRIES * _STOP.size, _STOP.size):
            master, started_on, moment = _STOP.unpack_from(self._map, at)
            if (master, started_on) == instance:
                return float(moment)
        return 0.0

    # descriptors

    def is_open(self) -> bool:
        """Tell whether the descriptor that holds this process's lock is still there.

        If not, a task closed it, and others with it; it is opened again.
        """
        try:
            found = os.fstat(self._descriptor)
            if (found.st_ino, found.st_dev) == self._identity:
                return True
        except OSError:
            pass
        self._reopen_if_closed()
        self.was_closed = True
        return False

    def _reopen_if_closed(self) -> None:
        """Open the file again where a task closed our descriptor, or reused its number."""
        try:
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self.path)):
                return
        except OSError:
            pass
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def _hand_path(self, place: int) -> str:
        return os.path.join(self._hands, str(place))


def is_process(record: Record) -> bool:
    """Tell whether the pid of a record is that of its very process, here and now."""
    return bool(record.clock) and _clock_of(record.pid) == record.clock


def is_dying(pid: int) -> bool:
    """Tell whether a process is known to be dead or to be ending, killed perhaps."""
    return os.path.exists("/proc/self/stat") and not _clock_of(pid)


@functools.cache
def _space() -> bytes:
    """Return what tells the PID namespace of this process from others that use the same home."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino.to_bytes(8, "little")
    except OSError:
        return bytes(8)


def _hand_start(delivery: int) -> int:
    """Return where a mule keeps a delivery: never over the one that its record still tells of."""
    return (delivery & 1) * _HAND_SIZE


def _clock_of(pid: int) -> int:
    """Return when a process started, in the kernel's ticks; 0 for a dead one, or if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in b"ZX" or int(fields[6]) & _EXITING:  # nobody has fetched its end yet
            return 0
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0
