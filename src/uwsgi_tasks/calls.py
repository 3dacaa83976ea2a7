"""A call: its arguments as bytes, and the handle that its caller holds."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from . import engine, runner, wire
from .errors import ArgumentsError, NotAvailable
from .executors import network
from .model import Receipt, TaskExecutor
from .options import Options
from .site import Site

R = TypeVar("R")

declared: dict[str, Options] = {}
"""The options in force of each task of this process, by name."""


class Handle(Generic[R]):
    """One call of a task: what is known of it from outside.

    Attributes:
        id: The message's id; it stays over retries.
        executor: Where it went.
    """

    __slots__ = ("_receipt", "executor", "id")

    def __init__(self, ident: str, receipt: Receipt) -> None:
        self.id = ident
        self.executor = receipt.executor
        self._receipt = receipt

    def __repr__(self) -> str:
        return f"<Handle {self.id} {self.executor.name}>"

    def status(self) -> str:
        """Return what the files tell of the call.

        Returns:
            On a spooler ``"queued"``, ``"running"``, ``"dead"`` or ``"gone"`` (it ended well, was
            cancelled, or never was); on ``RUNTIME`` ``"ok"`` or ``"dead"``; on a mule ``"dead"``
            or ``"unknown"``.
        """
        if self._receipt.outcome is not None:
            return self._receipt.outcome.state
        running = runner.current.get()
        if running is not None and running.message.id == self.id:
            return "running"
        site = self._site()
        if self.executor == TaskExecutor.MULE:
            return "dead" if site.letters.has(self.id) else "unknown"
        return site.find(self.id, [self._receipt.spool])[0]

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned, where it ran in the call (``RUNTIME``).

        Args:
            timeout: Seconds to wait; on ``RUNTIME`` there is nothing to wait for.

        Raises:
            NotAvailable: It ran elsewhere: results of other processes aren't stored yet.
        """
        outcome = self._receipt.outcome
        if outcome is None:
            raise NotAvailable(
                f"The result of {self.id} isn't known here: only RUNTIME keeps results so far"
            )
        result: R = outcome.result
        return result

    def cancel(self) -> bool:
        """Remove the call from the queue.

        Returns:
            False if it runs, or is over.

        Raises:
            NotAvailable: A mule's queue can't be looked into.
        """
        if self._receipt.outcome is not None:
            return False
        if self.executor == TaskExecutor.MULE:
            raise NotAvailable("A mule's queue can't be looked into: use the spooler to cancel")
        site = self._site()
        return site.cancel(self.id, [self._receipt.spool])

    def _site(self) -> Site:
        if self._receipt.spool.startswith(network.SCHEME):
            raise NotAvailable(f"The call went to {self._receipt.spool}, which alone knows of it")
        return engine.current().require_site(self._receipt.spool)


def handle_of(ident: str, receipt: Receipt) -> Handle[Any]:
    """Return the handle of a call, or raise what the task raised in it."""
    if receipt.error is not None:
        raise receipt.error
    return Handle(ident, receipt)


def payload_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str) -> bytes:
    """Return arguments as bytes.

    Raises:
        ArgumentsError: One of them can't be serialised; the error names it.
    """
    try:
        return wire.dump((args, kwargs), serializer)
    except ArgumentsError as error:
        culprit, reason = _culprit(args, kwargs, serializer)
        raise ArgumentsError(
            f"Task {name}: {culprit} can't be sent with {serializer} ({reason or error}):"
            f" pass plain values, such as the id of an object; nothing was submitted"
        ) from error


def _culprit(args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str) -> tuple[str, str]:
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for name, value in named:
        try:
            wire.dump(value, serializer)
        except ArgumentsError as error:
            return f"{name} ({type(value).__name__})", str(error)
    return "an argument", ""
