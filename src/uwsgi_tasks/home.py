"""The home directory: key, lock, FIFO, flags, and the rules of who may use them.

Everything in it belongs to the server's uid. It is made by the server before the fork, 0700.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import threading
import time

from .errors import ConfigError, HomeError
from .files import cure, give_to_owner
from .flags import Flags
from .server import Server
from .wire import fingerprint

NAME = ".uwsgi_tasks"
LOOK, SPOOL, ACTIVE = b"w", b"s", b"a"
"""What is written to the timekeeper's FIFO: something waits; somebody who can't wake the spoolers
put a file into a spool; tasks enter the spools, for the first time in a while."""


def locate(configured: str | None, server: Server) -> tuple[str, bool] | None:
    """Return the path of the home and whether it is durable, or ``None`` for none.

    Explicit, else in the first own spool directory, else in the first external one, else (inside
    uWSGI) an ephemeral directory of this instance.
    """
    if configured:
        return configured, True
    spools = [*server.own_spools(), *server.spools()]
    if spools:
        return os.path.join(spools[0], NAME), True
    if server.inside:
        name = f"uwsgi-tasks-{os.getuid()}-{server.incarnation}"
        return os.path.join(tempfile.gettempdir(), name), False
    return None


class Home(Flags):
    """The home directory of one instance.

    Life: made and opened by the first process that needs it, then inherited or opened again by
    each forked one. Maps and descriptors survive a fork; the record lock does not, by design.
    """

    def __init__(self, path: str, *, durable: bool = True) -> None:
        super().__init__(path)
        self.durable = durable
        self._fifo: tuple[int, int] | None = None

    def make(self) -> None:
        """Make the home and what belongs into it; harmless when it is there.

        Raises:
            HomeError: It can't be made, or belongs to somebody else.
        """
        try:
            _make_directory(self.path)
            _make_directory(self.file("dead"))
            _make_directory(self.file("announced"))
            _make_directory(self.file("hands"))
            for name in ("wake", "resumed"):
                with contextlib.suppress(FileExistsError):
                    os.mkfifo(self.file(name), 0o600)
                    _give_to_owner(self.file(name))
        except OSError as error:
            if isinstance(error, HomeError):
                raise
            raise HomeError(error.errno, cure(self.path, error)) from error

    def keys(self, configured: tuple[str, ...]) -> list[bytes]:
        """Return the keys, the one to sign with first.

        Args:
            configured: The setting ``secret``; empty for the generated key of the home.

        Raises:
            ConfigError: The home was written with a key that isn't among them.
        """
        keys = [text.encode() for text in configured] or [self._generated_key()]
        written = self._read("fingerprint")
        if written is None:
            self._write_once("fingerprint", fingerprint(keys[0]).encode())
            written = self._read("fingerprint")
        known = {fingerprint(key).encode(): key for key in keys}
        if written not in known:
            raise ConfigError(
                f"The home {self.path} was written with another key. Add the old one to the list"
                f" `secret` (the first signs, all are accepted), or, if nothing signed with it is"
                f" left, remove {self.file('fingerprint')}"
            )
        return keys

    def fingerprint(self) -> str:
        """Return the fingerprint of the key in force."""
        return (self._read("fingerprint") or b"").decode()

    def adopt_key(self, key: bytes) -> None:
        """Write down which key the server signs with from now on."""
        if self._read("fingerprint") != fingerprint(key).encode():
            self.replace_file("fingerprint", fingerprint(key).encode())

    def _generated_key(self) -> bytes:
        key = self._read("key")
        if key is None:
            self._write_once("key", os.urandom(32).hex().encode())
            key = self._read("key")
        if not key:
            raise HomeError(errno.EIO, f"The key file {self.file('key')} is empty; remove it")
        return key

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self.file(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HomeError(error.errno, cure(self.path, error)) from error

    def _write_once(self, name: str, data: bytes) -> None:
        """Write a file that isn't there yet; of several writers the first wins."""
        temporary = self._temporary(name, data)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, self.file(name))
        os.unlink(temporary)

    def replace_file(self, name: str, data: bytes) -> None:
        """Write a file of the home, as a whole or not at all."""
        os.replace(self._temporary(name, data), self.file(name))

    def _temporary(self, name: str, data: bytes) -> str:
        path = self.file(f".{name}.{os.getpid()}.{threading.get_ident()}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                give_to_owner(descriptor, self.path)
                file.write(data)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise HomeError(error.errno, cure(self.path, error)) from error
        return path

    def sweep(self, before: float) -> None:
        """Remove what killed processes left half written here before a moment."""
        for folder in (self.path, self.file("dead")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            if entry.stat(follow_symlinks=False).st_mtime < before:
                                os.unlink(entry.path)

    # the timekeeper's FIFO

    def wake_timekeeper(self, why: bytes = LOOK) -> None:
        """Tell the timekeeper something; a full FIFO has told it already.

        Args:
            why: ``LOOK``, ``SPOOL`` or ``ACTIVE``.
        """
        try:
            os.write(self._open_fifo(), why)
        except BlockingIOError:
            pass
        except OSError:  # a task closed our descriptor
            self._fifo = None
            with contextlib.suppress(OSError):
                os.write(self._open_fifo(), why)

    def wake_timekeeper_for(self, due: float) -> None:
        """Tell the timekeeper that something waits until a moment, if it would sleep through it."""
        planned = self.planned_look()
        if due < planned or planned < time.time():  # the clock may have been set forward
            self.wake_timekeeper()

    def reopen(self) -> None:
        """Open the FIFO again at its next use: a task closed every descriptor."""
        self._fifo = None

    def open_fifo(self) -> int:
        """Return a descriptor on which the timekeeper waits."""
        return self._open_fifo()

    def _open_fifo(self) -> int:
        with self._lock:
            if self._fifo is None or self._fifo[0] != os.getpid():
                # for reading too: opening doesn't wait for a reader, and no end-of-file is seen
                descriptor = os.open(self.file("wake"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._fifo = (os.getpid(), descriptor)
            return self._fifo[1]

    def lock_timekeeper(self) -> int:
        """Wait until this process is the timekeeper; return the descriptor that holds the lock.

        A record lock ends with the process; a child that a task forked doesn't inherit it.
        """
        descriptor = os.open(
            self.file("timekeeper.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        return descriptor

    def announce(self, word: str) -> bool:
        """Write something down for every process of this home; tell whether it is new."""
        path = self.file("announced", os.path.basename(word))
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True

    def is_announced(self, word: str) -> bool:
        """Tell whether ``announce`` was called with that word."""
        return os.path.exists(self.file("announced", os.path.basename(word)))


def _make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        _give_to_owner(path)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise HomeError(errno.ENOTDIR, f"{path} is there but is no directory; remove it")
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise HomeError(
            errno.EPERM,
            f"{path} belongs to uid {found.st_uid}, this process runs as {os.geteuid()}:"
            f" run it as the server's user, or chown the spool directory to that user",
        )


def _give_to_owner(path: str) -> None:
    """Give what root makes to the owner of the directory that it lies in, who has to use it."""
    if os.geteuid() == 0:
        owner = os.stat(os.path.dirname(path))
        if owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid)


def _is_kept_time(path: str) -> bool:
    """Tell whether a process, perhaps of another PID namespace, is the timekeeper of a home."""
    try:
        descriptor = os.open(os.path.join(path, "timekeeper.lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_stale_ephemeral(alive: str) -> None:
    """Remove the ephemeral homes of this user whose master is gone."""
    root, prefix = tempfile.gettempdir(), f"uwsgi-tasks-{os.getuid()}-"
    import shutil

    for name in os.listdir(root):
        if not name.startswith(prefix) or name == os.path.basename(alive):
            continue
        master = name[len(prefix) :].partition("-")[0]
        path = os.path.join(root, name)
        with contextlib.suppress(OSError):
            ours = os.lstat(path).st_uid == os.getuid() and not os.path.exists(f"/proc/{master}")
            if ours and not _is_kept_time(path):
                shutil.rmtree(path, ignore_errors=True)  # another process may do the same
