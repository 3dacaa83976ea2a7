"""A call: its arguments as bytes, and the handle that its caller holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from . import cancelling, engine, finding, home, runner, wire
from .errors import ArgumentsError, NotAvailable, ResultTimeout, TaskFailed
from .executors import network
from .journal import FINAL_STATES, OK, Record
from .model import Receipt, TaskExecutor, is_id
from .options import Options
from .site import Site

R = TypeVar("R")

declared: dict[str, Options] = {}
"""The options in force of each task of this process, by name."""


class Handle(Generic[R]):
    """One call of a task: what is known of it, and asked of it, from outside.

    ``await handle`` waits for its result in an event loop.

    Attributes:
        id: The message's id; it stays over retries.
        executor: Where it went.
    """

    __slots__ = ("_keeps", "_receipt", "executor", "id")

    def __init__(self, ident: str, receipt: Receipt, *, keeps: bool | None = None) -> None:
        self.id = ident
        self.executor = receipt.executor
        self._receipt = receipt
        self._keeps = keeps

    def __repr__(self) -> str:
        return f"<Handle {self.id} {self.executor.name}>"

    def status(self) -> str:
        """Return how the call stands.

        Returns:
            ``"queued"``, ``"scheduled"`` (it waits for its time), ``"running"``, or how it ended:
            ``"ok"``, ``"dead"``, ``"expired"`` or ``"cancelled"``. ``"gone"``: nothing is known of
            it, or not any more; on a mule ``"unknown"``, for it may lie in the mule's queue.
        """
        if self._receipt.outcome is not None:
            return self._receipt.outcome.state
        running = runner.current.get()
        if running is not None and running.message.id == self.id:
            return "running"
        site = self._site()
        state = finding.place_of(site, self.id, self._spools(site)).state
        return "unknown" if state == "gone" and self.executor == TaskExecutor.MULE else state

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call has ended, however it did; woken at once when it does.

        Args:
            timeout: Seconds to wait; ``None``: for ever.

        Returns:
            Whether it has.

        Raises:
            NotAvailable: It went to another host's spooler, which alone knows of it.
        """
        if self._receipt.outcome is not None:
            return True
        return self._site().waits.wait(self.id, self._is_over, timeout)

    def _is_over(self) -> bool:
        return self.status() in _ENDED

    def _is_written(self) -> Callable[[], bool]:
        """Return what tells whether the call has ended and its result is written.

        That follows a moment after its end, unless its process is killed in that very moment.
        """
        site, seen = self._site(), list[float]()

        def is_written() -> bool:
            state = self.status()
            if state not in _ENDED or state == "gone":
                return state == "gone"
            seen.append(time.monotonic())
            return site.history.find(self.id) is not None or seen[-1] - seen[0] > _WRITTEN_S

        return is_written

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned; wait for it where it hasn't ended.

        Args:
            timeout: Seconds to wait; ``None``: for ever.

        Raises:
            TaskFailed: It is dead, expired or cancelled; with the traceback of its process.
            ResultTimeout: It hasn't ended yet.
            NotAvailable: Its result isn't stored: see ``store_result``.
        """
        outcome = self._receipt.outcome
        if outcome is not None:
            result: R = outcome.result
            return result
        self._check_kept()
        if not self._site().waits.wait(self.id, self._is_written(), timeout):
            raise ResultTimeout(f"Task {self.id} hasn't ended within {timeout:g} s; it goes on")
        return self._stored()

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the result in an event loop; it raises what ``result`` raises."""
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        if self._receipt.outcome is not None:
            return self.result()
        self._check_kept()
        await self._site().waits.wait_in_loop(self.id, self._is_written())
        return self._stored()

    def _check_kept(self) -> None:
        if self._keeps is False or not engine.current().settings.history:
            raise NotAvailable(
                f"The result of {self.id} isn't stored: give its task, or the call, the option"
                f" store_result=True, or set store_results (and leave history on);"
                f" wait() and status() tell how it ends"
            )

    def _stored(self) -> R:
        site = self._site()
        record = site.history.find(self.id)
        if record is None or record.state != OK:
            raise self._failure(site, record)
        if not record.result:
            raise NotAvailable(
                f"Task {record.task} {self.id} is ok, and"
                f" {record.reason or 'its result was not stored: it needs store_result=True'}"
            )
        result: R = runner.loaded_result(record.result, self.id, site.signer)
        return result

    def _failure(self, site: Site, record: Record | None) -> Exception:
        """Return what is raised where there is no result."""
        letter = site.letters.read(self.id)
        if record is not None:
            state, trace = FINAL_STATES[record.state], letter.traceback if letter else ""
            trace = trace or str(finding.details(record).get("traceback", ""))
            reason, error, task = record.reason, record.error, record.task
        else:
            state = self.status()
            if state not in finding.FINAL or state == "ok":
                return NotAvailable(f"Nothing is known of the result of {self.id} any more")
            task, reason, error, trace = letter[1:5] if letter else ("", "", "", "")
        return TaskFailed(self.id, state, task, reason, error, trace)

    def cancel(self, *, kill: bool = False) -> bool:
        """Cancel the call: take it out of the queue, or stop it where it runs.

        Args:
            kill: Kill the process in which it runs, which starts anew. Without it
                ``TaskCancelled`` is raised in the task, which may catch it to clean up.

        Returns:
            Whether it was taken out, or is being stopped; ``wait()`` waits for the end. False if it
            has ended, or is the very task that asks.

        Raises:
            NotAvailable: It lies in a mule's queue, which can't be looked into.
        """
        if self._receipt.outcome is not None:
            return False
        this, site = engine.current(), self._site()
        keep, spools = this.settings.history, self._spools(site)
        if cancelling.cancel(site, self.id, spools, kill=kill, keep=keep):
            return True
        if self.executor == TaskExecutor.MULE and self.status() == "unknown":
            raise NotAvailable("A mule's queue can't be looked into: use the spooler to cancel")
        return False

    def _site(self) -> Site:
        if self._receipt.spool.startswith(network.SCHEME):
            raise NotAvailable(f"The call went to {self._receipt.spool}, which alone knows of it")
        return engine.current().require_site(self._receipt.spool)

    def _spools(self, site: Site) -> list[str]:
        return [self._receipt.spool] if self._receipt.spool else spools_of(site)


_WRITTEN_S = 0.5
_ENDED = (*finding.FINAL, "gone")


def get(ident: str) -> Handle[Any]:
    """Return the handle of a call by its id, in any process that reaches the home.

    Args:
        ident: What ``handle.id`` was.

    Raises:
        ValueError: That is no id.
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    if not isinstance(ident, str) or not is_id(ident):
        raise ValueError(f"{ident!r} is no id of a task: handle.id gives one")
    site = engine.current().require_site()
    record = site.history.find(ident) or finding.in_hand(site, ident)
    is_mule = isinstance(record, Record) and record.executor == TaskExecutor.MULE
    return Handle(ident, Receipt(TaskExecutor.MULE if is_mule else TaskExecutor.SPOOLER))


def spools_of(site: Site) -> list[str]:
    """Return the spool directories whose tasks the home of a site tells of."""
    folder, name = os.path.split(site.home.path)
    beside = [folder] if name == home.NAME else []
    return list(dict.fromkeys([*engine.current().spools(), *beside]))


def handle_of(ident: str, receipt: Receipt, *, keeps: bool | None = None) -> Handle[Any]:
    """Return the handle of a call, or raise what the task raised in it."""
    if receipt.error is not None:
        raise receipt.error
    return Handle(ident, receipt, keeps=keeps)


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
