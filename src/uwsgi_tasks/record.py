"""What a server tells of itself to those outside: ``server.json`` in its home.

The process that keeps time writes it when something in it has changed. Whether that server lives
is told by the lock that its timekeeper holds, never by a pid: it may be another container's.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .config import Settings
from .errors import HomeError
from .files import cure, is_locked
from .home import NAME as HOME_NAME
from .home import Home
from .server import MULE_LIMIT, Uwsgi

NAME = "server.json"
FORMAT = 1
"""Grows when those who know an older one would misread it."""
_LOOK_AGAIN_S = 1.0
OPTIONS = (
    "ini",
    "spooler-frequency",
    "spooler-harakiri",
    "spooler-ordered",
    "spooler-max-tasks",
    "spooler-import",
    "spooler-chdir",
    "harakiri",
    "lazy-apps",
    "shared-import",
    "master-fifo",
    "binary-path",
    "die-on-term",
    "chdir",
    "procname-prefix",
)
"""Options of uWSGI that matter to somebody outside."""


class Record(NamedTuple):
    """A server, as it was when it started.

    Attributes:
        format: Version of the record; see ``FORMAT``.
        version: Of the library.
        home: Path of the home, as the server sees it.
        spools: Spool directories that its own spoolers work on, the default one first.
        inodes: Of those directories, by which they are known where they are mounted elsewhere.
        external: Spool directories of other instances that it submits to.
        queues: Name of a queue, and its spool directory.
        spoolers: Number of its spooler processes.
        mules: Number of its mules that run the library.
        workers: Number of its web workers.
        master: Pid of its master, in its own PID namespace; nothing to send signals to.
        started_on: Epoch seconds of its start or last reload.
        incarnation: Tells this start from the others.
        max_message_bytes: The largest arguments that it takes.
        mule_limit: Bytes that a mule reads of a message.
        options: The options of uWSGI in ``OPTIONS`` that are set.
        python: Version of Python.
        uwsgi: Version of uWSGI.
        host: Name of the machine or container.
        written_at: Epoch seconds.
    """

    format: int
    version: str
    home: str
    spools: tuple[str, ...]
    inodes: tuple[int, ...]
    external: tuple[str, ...]
    queues: Mapping[str, str]
    spoolers: int
    mules: int
    workers: int
    master: int
    started_on: int
    incarnation: str
    max_message_bytes: int
    mule_limit: int
    options: Mapping[str, str]
    python: str
    uwsgi: str
    host: str
    written_at: float


def write(home: Home, here: Uwsgi, settings: Settings) -> None:
    """Write the record of a server, if it isn't there already."""
    record = _of(home, here, settings)
    try:
        written = read(home.path)
    except HomeError:  # a newer or a broken one: this server is the one that serves now
        written = None
    if written is None or written._replace(written_at=record.written_at) != record:
        home.replace_file(NAME, json.dumps(record._asdict(), indent=1).encode())


def _of(home: Home, here: Uwsgi, settings: Settings) -> Record:
    own = tuple(here.own_spools())
    options = {name: here.option(name) for name in OPTIONS}
    return Record(
        format=FORMAT,
        version=library_version(),
        home=os.path.realpath(home.path),
        spools=own,
        inodes=tuple(map(_inode, own)),
        external=tuple(spool for spool in here.spools() if spool not in own),
        queues=dict(settings.queues),
        spoolers=sum(len(here.spooler_pids(spool)) for spool in own),
        mules=len(home.announced_mules(here.incarnation)),
        workers=here.workers,
        master=here.master,
        started_on=here.started_on,
        incarnation=here.incarnation,
        max_message_bytes=settings.max_message_bytes,
        mule_limit=MULE_LIMIT,
        options={name: text for name, text in options.items() if text is not None},
        python=sys.version.partition(" ")[0],
        uwsgi=here.version,
        host=os.uname().nodename,
        written_at=time.time(),
    )


@functools.cache
def library_version() -> str:
    """Return the version of the installed library, empty where it isn't installed.

    The server asks for it before the fork: its import takes some 10 ms, in which a thread that made
    it would keep a main thread waiting, and uWSGI's handler of SIGTERM mustn't come in such a wait.
    """
    from importlib import metadata

    try:
        return metadata.version("uwsgi-tasks")
    except metadata.PackageNotFoundError:
        return ""


def read(home: str) -> Record | None:
    """Return the record in a home, or ``None`` where no server has written one.

    Raises:
        HomeError: It can't be read, or was written by a newer version.
    """
    path = os.path.join(home, NAME)
    try:
        with open(path, "rb") as file:
            values = json.load(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(error.errno, cure(home, error)) from error
    except ValueError as error:
        raise HomeError(errno.EIO, f"{path} can't be read ({error}): restart the server") from error
    return _parsed(path, values)


def _parsed(path: str, values: Any) -> Record:
    written = values.get("format") if isinstance(values, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise HomeError(
            errno.EPROTO,
            f"{path} was written by uwsgi-tasks {values.get('version')}, which is newer than the"
            f" {library_version() or 'one'} here: install that version here too",
        )
    try:
        record = Record(**{name: values[name] for name in Record._fields})
    except (KeyError, TypeError) as error:
        raise HomeError(
            errno.EIO, f"{path} can't be read ({error!r}): restart the server"
        ) from None
    spools, inodes = tuple(record.spools), tuple(record.inodes)
    return record._replace(spools=spools, inodes=inodes, external=tuple(record.external))


def is_up(home: str) -> bool:
    """Tell whether a server serves the home now: whether its timekeeper holds its lock."""
    try:
        descriptor = os.open(os.path.join(home, "timekeeper.lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HomeError(error.errno, cure(home, error)) from error
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)


def home_at(path: str) -> str:
    """Return the home that a path means: itself, or the one in that spool directory."""
    inner = os.path.join(path, HOME_NAME)
    if os.path.exists(os.path.join(path, "fingerprint")) or not os.path.isdir(inner):
        return path
    return inner


class Remote:
    """A server as one outside sees it, through its home.

    Args:
        home: Path of the home.
        required: Nothing but the record tells where tasks go.
    """

    def __init__(self, home: str, *, required: bool) -> None:
        self.home = home
        self.required = required
        self._stamp: tuple[int, int] | None = None
        self._record: Record | None = None
        self._paths: dict[str, str] = {}
        self._is_told = False
        self._look_at = 0.0

    def check(self) -> None:
        """Make sure that the home is there, and is one that this version understands.

        Raises:
            HomeError: It isn't.
        """
        if self.required and not os.path.isdir(self.home):
            raise HomeError(
                errno.ENOENT,
                f"There is no home {self.home}: set UWSGITASKS_HOME, or configure(home=…), to that"
                f" of the server, which makes it when it starts; in a container, mount its volume",
            )
        self.record()

    def record(self) -> Record | None:
        """Return the server's record as it is now.

        Raises:
            HomeError: It can't be read, or isn't there and nothing else tells where tasks go.
        """
        try:
            found = os.stat(os.path.join(self.home, NAME))
        except FileNotFoundError:
            self._stamp = self._record = None
            self._paths = {}
            return None
        except OSError as error:
            raise HomeError(error.errno, cure(self.home, error)) from error
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            record = read(self.home)
            self._record = record
            self._paths = _paths(self.home, record) if record else {}
            self._stamp = stamp
        return self._record

    def spools(self) -> list[str]:
        """Return the spool directories of the server, as they are called here.

        Raises:
            HomeError: Nothing tells which there are, or there is none.
        """
        record = self.record()
        if self._paths or not self.required:
            return list(self._paths)
        self.check()
        if record is None:
            raise HomeError(
                errno.ENOENT,
                f"No server has told yet in {self.home} where its tasks go: start it once (with"
                f" this version or a later one), or set UWSGITASKS_SPOOLER to its spool directory",
            )
        if record.spools:
            raise HomeError(
                errno.ENOENT,
                f"The spool directories {', '.join(record.spools)} of the server aren't there:"
                f" mount the volume here as the server sees it, or its parent directory as a whole",
            )
        raise HomeError(
            errno.ENOENT,
            f"The server of {self.home} has no spooler, so that nothing can be queued for it from"
            f" outside: add `spooler = /path/of/a/directory` to its uwsgi.ini",
        )

    def queues(self) -> dict[str, str]:
        """Return the queues that are tied to a spool directory, as those are called here."""
        record = self.record()
        return {name: self.ours(path) for name, path in record.queues.items()} if record else {}

    def theirs(self, spool: str) -> str:
        """Return what the server calls a spool directory."""
        return self._paths.get(spool, spool)

    def ours(self, spool: str) -> str:
        """Return what a spool directory of the server is called here."""
        return next((ours for ours, theirs in self._paths.items() if theirs == spool), spool)

    def max_message_bytes(self) -> int | None:
        """Return the largest arguments that the server takes, if it told."""
        record = self.record()
        return record.max_message_bytes if record else None

    def tell_if_down(self, warn: Callable[..., None]) -> None:
        """Warn, once per process, when no server is there for what is queued."""
        now = time.monotonic()
        if self._is_told or now < self._look_at:
            return
        self._look_at = now + _LOOK_AGAIN_S
        if not is_up(self.home):
            self._is_told = True
            warn(
                "No server serves %s now: what is called waits until one starts (told once)",
                self.home,
            )


def _paths(home: str, record: Record) -> dict[str, str]:
    """Return the server's spools that are there: what they are called here → by the server.

    Another container may have mounted the volume elsewhere: then they are looked for at the same
    place relative to the home.
    """
    home, found = os.path.realpath(home), {}
    for theirs, inode in zip(record.spools, record.inodes, strict=True):
        beside = os.path.realpath(os.path.join(home, os.path.relpath(theirs, record.home)))
        if home == record.home:
            found[theirs] = theirs
        elif inode in (_inode(beside), _inode(theirs)):
            found[beside if inode == _inode(beside) else theirs] = theirs
    return found


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
