"""Files that several processes share: mapped, locked, and owned by whom they are for."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import sys

from .errors import HomeError


def map_file(path: str, size: int) -> tuple[int, mmap.mmap]:
    """Map a file that all processes share, and return its descriptor with it.

    Its blocks are allocated: writing to a hole of a full disk would kill the process.

    Raises:
        HomeError: It can't be made or opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                _allocate(descriptor, size)
                give_to_owner(descriptor, os.path.dirname(path))
            return descriptor, mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise HomeError(error.errno, cure(os.path.dirname(path), error)) from error


def give_to_owner(descriptor: int, directory: str) -> None:
    """Give a file that root makes to the owner of its directory, who has to use it."""
    if os.geteuid() == 0:
        owner = os.stat(directory)
        if owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.pwrite(descriptor, bytes(size), 0)


_LINUX = sys.platform != "darwin"
_TYPE_AT = 0 if _LINUX else 20
_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)


def is_locked(descriptor: int, start: int = 0, length: int = 0) -> bool:
    """Tell whether another process holds a record lock, without taking it for a moment.

    Args:
        descriptor: Of the file, open for writing.
        start: First byte.
        length: Number of bytes; 0 is to the end.
    """
    if _LINUX:
        asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    else:
        asked = struct.pack("qqihh", start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
    return answer[_TYPE_AT : _TYPE_AT + 2] != _UNLOCKED


def sync_directory(path: str) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cure(path: str, error: OSError) -> str:
    """Return what is wrong with a home, and what mends it."""
    if error.errno == errno.ENOENT:
        return (
            f"The home {path} can't be used ({error.strerror}): make the directory that it lies in,"
            f" for the server's user, or set UWSGITASKS_HOME to another one"
        )
    return (
        f"The home {path} can't be used by uid {os.geteuid()} ({error.strerror}):"
        f" chown the spool directory to the server's user (uWSGI makes it as root"
        f" before it drops privileges), or set UWSGITASKS_HOME to a directory of that user"
    )
