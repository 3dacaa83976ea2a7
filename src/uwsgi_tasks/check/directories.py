"""Checks of the spool directories and the home, as they lie on the disk."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from .table import Facts, Problem, check

_IN_MEMORY = ("tmpfs", "ramfs")
_NETWORK: tuple[str, ...] = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "fuse.sshfs",
    "glusterfs",
)
_NETWORK += ("fuse.glusterfs", "lustre", "fuse.s3fs")
_LOW_BYTES, _LOW_SHARE = 100 << 20, 0.02
MOUNTS = "/proc/mounts"


def _existing(path: str) -> str:
    """Return the path, or the nearest directory above it that is there."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _places(facts: Facts) -> list[str]:
    return list(dict.fromkeys([*facts.spools, *([facts.home] if facts.home else [])]))


def file_system(path: str) -> str:
    """Return the type of the file system that a path lies on, empty where that isn't known."""
    real, found, kind = os.path.realpath(_existing(path)), "", ""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    for _, point, this, *_ in mounts:
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, this
    return kind


@check("UT-W012", "a spool in memory")
def in_memory(facts: Facts) -> Iterator[Problem]:
    """What lies there is gone when the machine or container stops."""
    for path in _places(facts):
        kind = file_system(path)
        if kind in _IN_MEMORY:
            yield Problem(
                f"{path} lies in memory ({kind}): its tasks are gone when the machine stops",
                "use a directory on a disk or a volume",
                ("spooler = /var/lib/app/spool",),
            )


@check("UT-E010", "a spool on a network file system")
def on_network(facts: Facts) -> Iterator[Problem]:
    """Locks and mapped files have to work between processes: SQLite and uWSGI need both."""
    for path in _places(facts):
        kind = file_system(path)
        if kind in _NETWORK:
            yield Problem(
                f"{path} lies on a network file system ({kind}), whose locks and mapped files"
                f" can't be trusted: tasks may run twice",
                "use a local directory; several hosts have one each",
                ("spooler = /var/lib/app/spool",),
            )


@check("UT-W013", "little room on the disk")
def disk_full(facts: Facts) -> Iterator[Problem]:
    """Calls fail when there is none, and what tasks came to can't be written down."""
    for path in _places(facts):
        room = os.statvfs(_existing(path))
        free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        if size and (free < _LOW_BYTES or free < size * _LOW_SHARE):
            yield Problem(
                f"The disk of {path} has {free >> 20} MiB left: when it is full calls are refused",
                "make room: `uwsgi-tasks purge`, or the settings dead_max_bytes and dead_max_age",
            )
            return


@check("UT-W014", "others may read it")
def world_readable(facts: Facts) -> Iterator[Problem]:
    """Spool files hold arguments, and the home holds the key."""
    for path in _places(facts):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_IRWXO:
            yield Problem(
                f"Every user of this machine may look into {path} (mode {mode & 0o7777:o}):"
                f" arguments lie there, and the key",
                f"run `chmod o-rwx {path}`",
            )


@check("UT-E011", "it belongs to another user")
def owner(facts: Facts) -> Iterator[Problem]:
    """The server makes spool directories before it drops its privileges."""
    for path in _places(facts):
        try:
            found = os.stat(path).st_uid
        except OSError:
            if facts.uid > 0 and os.geteuid() == 0 and path in facts.spools:
                yield Problem(
                    f"{path} isn't there: uWSGI makes it as root, and uid {facts.uid} can't use it",
                    f"run `mkdir -p {path} && chown {facts.uid} {path}`",
                )
            continue
        if facts.uid > 0 and found != facts.uid:
            yield Problem(
                f"{path} belongs to uid {found}, the server runs as uid {facts.uid}: nothing runs",
                f"run `chown -R {facts.uid} {path}`",
            )


@check("UT-E012", "it can't be written")
def unwritable(facts: Facts) -> Iterator[Problem]:
    """A task that can't be removed is passed over, a call that can't be written is refused."""
    for path in _places(facts):
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield Problem(
                f"{path} can't be read and written by uid {os.geteuid()}",
                "run this as the server's user, or give the directory to it",
            )


@check("UT-H007", "other files in a spool")
def foreign_files(facts: Facts) -> Iterator[Problem]:
    """The spooler looks at each of them at every scan, and at nothing but their names."""
    for path in facts.spools:
        try:
            names = os.listdir(path)
        except OSError:
            continue
        foreign = [n for n in names if not n.startswith((".", "uwsgi_spoolfile_on_"))]
        foreign = [n for n in foreign if not (n.isdigit() and os.path.isdir(f"{path}/{n}"))]
        if foreign:
            yield Problem(
                f"{path} holds {len(foreign)} entries that are no tasks, such as {foreign[0]!r}",
                "give the spooler a directory of its own",
            )
