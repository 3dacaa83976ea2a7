"""The spooler: a message becomes a file in uWSGI's spool directory, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable

from ..errors import NotAvailable
from ..files import give_to_owner, is_locked, sync_directory

FILE_PREFIX = "uwsgi_spoolfile_on_"
_TICKS_S = 0.05
_SWEEP_AFTER_S = 3600.0
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


_in_hand: list[str] = [""]


def hold(path: str) -> None:
    """Remember the file whose task this process runs.

    Opening and closing it would give uWSGI's lock on it away, and a second spooler would run it.
    """
    _in_hand[0] = path


def file_name(ident: str, delivery: int) -> str:
    """Return the name of the spool file of a delivery."""
    return f"{FILE_PREFIX}{ident}.{delivery}"


def submit(spool: str, ident: str, delivery: int, content: bytes, *, sync: bool = False) -> None:
    """Put a delivery into a spool directory.

    Args:
        spool: The directory.
        ident: The message's id.
        delivery: Which of its deliveries.
        content: Of the file.
        sync: Flush the file and its name to the disk before returning.

    The file gets a temporary name first, which uWSGI doesn't look at, and its own when it is whole:
    uWSGI reads and deletes files that are half written (``spooler_manage_task`` in ``spooler.c``).

    Raises:
        NotAvailable: The directory is missing, full, or not ours to write to.
    """
    name = file_name(ident, delivery)
    temporary = f"{spool}/.{name}"
    try:
        _write(temporary, spool, content, sync)
        os.rename(temporary, f"{spool}/{name}")
        if sync:
            sync_directory(spool)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise NotAvailable(
            f"The task can't be written to the spool {spool} ({error.strerror}): nothing was"
            f" submitted. The directory has to be there, writable for uid {os.geteuid()},"
            f" and have room"
        ) from error


def submit_once(
    spool: str, ident: str, delivery: int, content: bytes, *, sync: bool = False
) -> None:
    """Put a delivery into a spool directory unless its file is there already.

    Raises:
        OSError: The directory is missing, full, or not ours to write to.
    """
    name = file_name(ident, delivery)
    temporary = f"{spool}/.{name}.{os.getpid()}"
    try:
        _write(temporary, spool, content, sync)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, f"{spool}/{name}")
        if sync:
            sync_directory(spool)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def prepare(spool: str, ident: str, delivery: int, content: bytes, *, sync: bool = False) -> str:
    """Write the file of a delivery under a name that uWSGI doesn't look at, and return that.

    Raises:
        OSError: The directory is missing, full, or not ours to write to.
    """
    name = file_name(ident, delivery)
    temporary = f"{spool}/.{name}.{threading.get_native_id()}"
    try:
        _write(temporary, spool, content, sync)
    except OSError:
        discard(temporary)
        raise
    return temporary


def enter(temporary: str, spool: str, ident: str, delivery: int) -> None:
    """Give a prepared file its name, unless that is there already.

    Only one process may enter files of one delivery at a time: a second name for it would give
    away the lock of the spooler that runs it.

    Raises:
        OSError: The directory is gone, or not ours to write to.
    """
    path = f"{spool}/{file_name(ident, delivery)}"
    if os.access(path, os.F_OK):
        discard(temporary)
    else:
        os.rename(temporary, path)


def discard(temporary: str) -> None:
    """Remove a prepared file."""
    with contextlib.suppress(OSError):
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
        return "running" if is_locked(descriptor) else "queued"
    finally:
        os.close(descriptor)


def content_of(path: str) -> bytes | None:
    """Return the content of a spool file, or ``None`` if it is gone, or in hand here.

    Closing it in the spooler that has it in hand would give uWSGI's lock on it away.
    """
    if path == _in_hand[0]:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def remove_unlocked(path: str, before: Callable[[], object] = bool) -> bool:
    """Remove a spool file that no spooler has in hand; False if one has, or it is gone.

    Args:
        path: The file.
        before: Called when it is sure that no spooler gets it any more.
    """
    if path == _in_hand[0]:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else a spooler has just ended it
            before()
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def names_in(spool: str) -> list[str]:
    """Return the names of the spool files in a directory; none if it isn't there."""
    try:
        return [name for name in os.listdir(spool) if name.startswith(FILE_PREFIX)]
    except OSError:
        return []


def sweep(spool: str) -> None:
    """Remove what producers that were killed left half written an hour ago or longer."""
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.startswith(f".{FILE_PREFIX}"):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _SWEEP_AFTER_S:
                        os.unlink(entry.path)


def _write(path: str, spool: str, content: bytes, sync: bool) -> None:
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, memoryview(content)[written:])
        _date_back(descriptor)
        give_to_owner(descriptor, spool)
        if sync:
            os.fsync(descriptor)
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
