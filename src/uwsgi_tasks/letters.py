"""Dead letters on disk: the message as it was, and a JSON beside it that tells its story."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import files
from .model import Attempt, Message

logger = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """How much is kept: whatever is beyond one of them is dropped, the oldest first.

    Attributes:
        number: Of letters.
        size: Bytes that they take on the disk.
        age: Seconds.
    """

    number: int = 10_000
    size: int = 1 << 30
    age: float = 90 * 86400.0


class DeadLetter(NamedTuple):
    """A task that didn't succeed and won't run again by itself.

    Attributes:
        id: The message's id, or a made-up one where the message couldn't be read.
        task: Name of the task, empty where it couldn't be read.
        reason: Why it is dead, in a few words.
        error: The last exception's type and text, if there was one.
        traceback: The last exception's traceback, if there was one.
        attempts: Each attempt: ``attempt``, ``started``, ``finished`` (epoch seconds), ``pid``,
            ``error``.
        dead_at: Epoch seconds.
        queue: Label of its queue.
        spool: Spool directory it came from, if any.
        has_message: The message was readable, so that it can be retried.
    """

    id: str
    task: str
    reason: str
    error: str
    traceback: str
    attempts: list[dict[str, Any]]
    dead_at: float
    queue: str
    spool: str
    has_message: bool


def letter_of(message: Message, reason: str, error: str, traceback: str, spool: str) -> DeadLetter:
    """Return the letter of a message that can be read."""
    attempts = [_attempt(attempt) for attempt in message.attempts]
    return DeadLetter(
        message.id,
        message.task,
        reason,
        error,
        traceback,
        attempts,
        time.time(),
        message.queue,
        spool,
        True,
    )


def unreadable(ident: str, reason: str, error: str, spool: str) -> DeadLetter:
    """Return the letter of bytes that are no message, or none that may be read."""
    return DeadLetter(ident, "", reason, error, "", [], time.time(), "", spool, False)


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _beside(letter: DeadLetter) -> str:
    """Return where the file of a letter lies when the home is on another file system."""
    return os.path.join(letter.spool, f".{letter.id}.message")


def _attempt(attempt: Attempt) -> dict[str, Any]:
    number, started, finished, pid, error = attempt
    return {
        "attempt": number,
        "started": started,
        "finished": finished,
        "pid": pid,
        "error": error,
    }


class Letters:
    """The folder of dead letters of a home; a file pair per letter.

    Args:
        folder: The folder.
        bounds: How much is kept.
    """

    def __init__(self, folder: str, bounds: Bounds = Bounds()) -> None:  # noqa: B008  a constant
        self.folder = folder
        self.bounds = bounds
        self.kept = 0
        self._lock = threading.Lock()

    def keep(self, letter: DeadLetter, content: bytes, *, sync: bool = False) -> None:
        """Write a letter and the message beside it; the JSON comes last, whole or not at all.

        Args:
            letter: The letter.
            content: The message.
            sync: Flush both to the disk before returning.
        """
        with self.locked():
            self._write(f"{letter.id}.message", content, sync)
            self._keep_story(letter, sync)
        if sync:
            files.sync_directory(self.folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing letters for a block; the lock ends with its process."""
        with self._lock:
            descriptor = os.open(
                f"{self.folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                files.give_to_owner(descriptor, self.folder)
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def keep_file(self, letter: DeadLetter, path: str, *, move: bool) -> None:
        """Keep a letter whose message is a file: it is moved here, or gets a second name here.

        Nothing is read: a second name leaves the lock on a file that is in hand alone. A file of
        another file system gets a name beside its own that uWSGI doesn't look at.
        """
        name = os.rename if move else os.link
        with contextlib.suppress(FileExistsError):
            try:
                name(path, self._path(letter.id, "message"))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                name(path, _beside(letter))
        self._keep_story(letter, False)

    def _keep_story(self, letter: DeadLetter, sync: bool) -> None:
        self.kept += 1
        text = json.dumps(letter._asdict(), indent=1, default=str)
        self._write(f"{letter.id}.json", text.encode("utf-8", "backslashreplace"), sync)

    def prune(self, now: float) -> int:
        """Drop the oldest letters beyond the bounds; return how many."""
        self.kept = 0
        sizes: dict[str, int] = {}
        ages: dict[str, float] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                ident, _, kind = entry.name.rpartition(".")
                if not entry.name.startswith(".") and kind in ("json", "message"):
                    found = entry.stat(follow_symlinks=False)
                    sizes[ident] = sizes.get(ident, 0) + found.st_blocks * 512
                    ages[ident] = max(found.st_ctime, ages.get(ident, 0.0))
        newest = sorted(ages, key=ages.__getitem__, reverse=True)
        kept = total = 0
        for ident in newest:
            total += sizes[ident]
            if total > self.bounds.size or now - ages[ident] > self.bounds.age:
                break
            kept += 1
        dropped = sum(map(self.remove, newest[min(kept, self.bounds.number) :]))
        if dropped:  # another process may have done the same
            logger.warning(
                "%d dead letters were dropped, the oldest of %d: more than dead_max_count,"
                " dead_max_bytes or dead_max_age allow",
                dropped,
                len(newest),
            )
        return dropped

    def list(self) -> list[DeadLetter]:
        """Return all letters, the oldest first."""
        names = [name for name in os.listdir(self.folder) if name.endswith(".json")]
        letters = [self.read(name[:-5]) for name in names if not name.startswith(".")]
        return sorted((letter for letter in letters if letter), key=lambda letter: letter.dead_at)

    def count(self) -> int:
        """Return how many letters there are."""
        names = os.listdir(self.folder)
        return sum(name.endswith(".json") and not name.startswith(".") for name in names)

    def read(self, ident: str) -> DeadLetter | None:
        """Return a letter, or ``None`` if there is none of that id."""
        try:
            with open(self._path(ident, "json"), encoding="utf-8") as file:
                return DeadLetter(**json.load(file))
        except FileNotFoundError:
            return None

    def content(self, ident: str) -> bytes:
        """Return the message of a letter as it was."""
        with open(self._path(ident, "message"), "rb") as file:
            return file.read()

    def remove(self, ident: str) -> bool:
        """Remove a letter; False if there was none."""
        letter = self.read(ident)
        if letter is not None and not letter.has_message:
            _remove(_beside(letter))
        _remove(self._path(ident, "message"))
        return _remove(self._path(ident, "json"))

    def has(self, ident: str) -> bool:
        """Tell whether there is a letter of that id."""
        return os.path.exists(self._path(ident, "json"))

    def _path(self, ident: str, kind: str) -> str:
        return os.path.join(self.folder, f"{os.path.basename(ident)}.{kind}")

    def _write(self, name: str, content: bytes, sync: bool) -> None:
        temporary = os.path.join(self.folder, f".{name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(descriptor)
        os.replace(temporary, os.path.join(self.folder, name))
