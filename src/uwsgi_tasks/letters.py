"""Dead letters on disk: the message as it was, and a JSON beside it that tells its story."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

from .model import Attempt, Message


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
    """The folder of dead letters of a home; a file pair per letter."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def keep(self, letter: DeadLetter, content: bytes) -> None:
        """Write a letter and the message beside it; the JSON comes last, whole or not at all."""
        self._write(f"{letter.id}.message", content)
        text = json.dumps(letter._asdict(), indent=1, default=str)
        self._write(f"{letter.id}.json", text.encode("utf-8", "backslashreplace"))

    def list(self) -> list[DeadLetter]:
        """Return all letters, the oldest first."""
        names = [name for name in os.listdir(self.folder) if name.endswith(".json")]
        letters = [self.read(name[:-5]) for name in names if not name.startswith(".")]
        return sorted((letter for letter in letters if letter), key=lambda letter: letter.dead_at)

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
        try:
            os.unlink(self._path(ident, "json"))
            os.unlink(self._path(ident, "message"))
        except FileNotFoundError:
            return False
        return True

    def has(self, ident: str) -> bool:
        """Tell whether there is a letter of that id."""
        return os.path.exists(self._path(ident, "json"))

    def _path(self, ident: str, kind: str) -> str:
        return os.path.join(self.folder, f"{os.path.basename(ident)}.{kind}")

    def _write(self, name: str, content: bytes) -> None:
        temporary = os.path.join(self.folder, f".{name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, os.path.join(self.folder, name))
