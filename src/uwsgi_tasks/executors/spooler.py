"""The spooler: a message becomes a file in uWSGI's spool directory, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import time

from ..errors import NotAvailable

FILE_PREFIX = "uwsgi_spoolfile_on_"
_LINUX = sys.platform != "darwin"
_LOCK = (
    struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    if _LINUX
    else struct.pack("qqihh", 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
)
_TYPE_AT = 0 if _LINUX else 20
_TICKS_S = 0.05
_SWEEP_AFTER_S = 3600.0
_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


_in_hand: list[str] = [""]


def hold(path: str) -> None:
    """Remember the file whose task this process runs.

    Opening and closing it would give uWSGI's lock on it away, and a second spooler would run it.
    """
    _in_hand[0] = path


def file_name(ident: str, attempt: int) -> str:
    """Return the name of the spool file of an attempt."""
    return f"{FILE_PREFIX}{ident}.{attempt}"


def submit(spool: str, ident: str, attempt: int, content: bytes) -> None:
    """Put an attempt into a spool directory.

    The file gets a temporary name first, which uWSGI doesn't look at, and its own when it is whole:
    uWSGI reads and deletes files that are half written (``spooler_manage_task`` in ``spooler.c``).

    Raises:
        NotAvailable: The directory is missing, full, or not ours to write to.
    """
    name = file_name(ident, attempt)
    temporary = f"{spool}/.{name}"
    try:
        _write(temporary, spool, content)
        os.rename(temporary, f"{spool}/{name}")
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise NotAvailable(
            f"The task can't be written to the spool {spool} ({error.strerror}): nothing was"
            f" submitted. The directory has to be there, writable for uid {os.geteuid()},"
            f" and have room"
        ) from error


def submit_once(spool: str, ident: str, attempt: int, content: bytes) -> None:
    """Put an attempt into a spool directory unless its file is there already.

    Raises:
        OSError: The directory is missing, full, or not ours to write to.
    """
    name = file_name(ident, attempt)
    temporary = f"{spool}/.{name}.{os.getpid()}"
    try:
        _write(temporary, spool, content)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, f"{spool}/{name}")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def state_of(path: str) -> str:
    """Return ``"running"``, ``"queued"`` or ``"gone"`` for a spool file.

    uWSGI holds a record lock on the file while its task runs.
    """
    if path == _in_hand[0]:
        return "running"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return "gone"
    try:
        # asks for the lock without taking it: a scan at that moment would pass the file over
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _LOCK)
    finally:
        os.close(descriptor)
    return "queued" if answer[_TYPE_AT : _TYPE_AT + 2] == _UNLOCKED else "running"


def count_running(spool: str) -> int:
    """Return how many files of a spool directory have a task in hand."""
    with os.scandir(spool) as entries:
        paths = [entry.path for entry in entries if entry.name.startswith(FILE_PREFIX)]
    return sum(state_of(path) == "running" for path in paths)


def remove_unlocked(path: str) -> bool:
    """Remove a spool file that no spooler has in hand; False if one has, or it is gone."""
    if path == _in_hand[0]:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def sweep(spool: str) -> None:
    """Remove what producers that were killed left half written an hour ago or longer."""
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.startswith(f".{FILE_PREFIX}"):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _SWEEP_AFTER_S:
                        os.unlink(entry.path)


def _write(path: str, spool: str, content: bytes) -> None:
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, memoryview(content)[written:])
        _date_back(descriptor)
        if os.geteuid() == 0:
            _give_to_owner(descriptor, spool)
    finally:
        os.close(descriptor)


def _date_back(descriptor: int) -> None:
    """Keep uWSGI from taking a new file for one of the future, which it would look at much later.

    It compares the file's time with ``time()`` (``spooler_manage_task``), whose second begins up to
    a tick of the kernel late, while files may be dated exactly (Linux 6.13 on).
    """
    now = time.time()
    if now % 1 < _TICKS_S:
        os.utime(descriptor, (now - 1, now - 1))


def _give_to_owner(descriptor: int, spool: str) -> None:
    """Give a file that root writes to the owner of the spool, whose spooler has to read it."""
    owner = os.stat(spool)
    if owner.st_uid:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
