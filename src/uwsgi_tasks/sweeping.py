"""What uWSGI never hands over: hostile and broken files of a spool directory are moved away.

``spooler_manage_task`` in uWSGI's ``spooler.c`` passes over, at every scan and without a word: what
is no regular file, what it may not read and write, and what has fewer than four bytes. What is
larger than any message may be it would read into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time

from . import letters
from .executors.spooler import FILE_PREFIX, names_in
from .site import Site

logger = logging.getLogger(__name__)

OVERHEAD = 1 << 20
"""Bytes that a message may have beyond its arguments."""
_YOUNG_S = 60.0
_SHORTEST = 4
_LARGE = 1 << 20


def sweep(site: Site, spool: str, most: int) -> int:
    """Move away what would lie in a spool directory for ever; return how many files.

    Each becomes a dead letter with its reason. A short file may still be written to: it is left
    alone for a minute.

    Args:
        site: The home that keeps them.
        spool: The spool directory.
        most: Bytes beyond which a file is no message.
    """
    swept = 0
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.startswith(FILE_PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    reason = _problem(entry.path, found, most)
                    if reason:
                        _move_away(site, entry.path, reason, found)
                        swept += 1
    return swept


def tell_of_size(spool: str) -> bool:
    """Say so where an empty directory is large, as ext4 leaves it; every scan reads it whole."""
    size = os.stat(spool).st_size
    if size <= _LARGE or names_in(spool):
        return False
    logger.warning(
        "The spool directory %s is empty and has %d MiB, which every scan reads: it once held very"
        ' many files. Replace it when the server is stopped; see "The spool directory" in the guide'
        " to deploying",
        spool,
        size >> 20,
        extra={"action": "large_spool"},
    )
    return True


def _problem(path: str, found: os.stat_result, most: int) -> str:
    if stat.S_ISDIR(found.st_mode):
        return ""
    if stat.S_ISLNK(found.st_mode):
        return "it is a link"
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if not os.access(path, os.R_OK | os.W_OK):
        return "it can't be read and written"
    if found.st_size > most:
        return "message too big"
    if found.st_size < _SHORTEST and found.st_mtime < time.time() - _YOUNG_S:
        return "it is too short for a message"
    return ""


def _move_away(site: Site, path: str, reason: str, found: os.stat_result) -> None:
    ident = hashlib.sha256(f"{path} {found.st_ino}".encode("utf-8", "surrogateescape")).hexdigest()
    error = f"{found.st_size} bytes, mode {found.st_mode:o}, uid {found.st_uid}"
    letter = letters.unreadable(ident[:36], reason, error, os.path.dirname(path))
    if stat.S_ISLNK(found.st_mode):  # what it leads to isn't ours to keep
        letter = letter._replace(error=f"it leads to {os.readlink(path)!r}")
        site.bury(letter, b"")
        os.unlink(path)
    else:
        site.letters.keep_file(letter, path, move=True)
    logger.error("The file %r is no message (%s): dead letter %s", path, reason, letter.id)
