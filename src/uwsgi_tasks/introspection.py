"""The running task's object: what ``get_current_task()`` gives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, overload

from . import calls, engine, options, runner
from .errors import UwsgiTasksError
from .model import Message, Placement, Receipt, Run, TaskExecutor, new_id
from .options import Options

T = TypeVar("T")
_RUNTIME_DEPTH = 50


class BaseTask:
    """The running task's object, as ``get_current_task()`` gives it.

    Attributes:
        args: Positional arguments of this run.
        kwargs: Keyword arguments of this run.
    """

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._run.message.task} {self.id} attempt {self.attempt}>"

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of this run."""
        return self._run.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of this run."""
        return self._run.kwargs

    @property
    def id(self) -> str:
        """The id; it stays over retries."""
        return self._run.message.id

    @property
    def name(self) -> str:
        """Name of the task."""
        return self._run.message.task

    @property
    def chain(self) -> str:
        """Id of the first call of the chain of re-calls."""
        return self._run.message.chain

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._run.message.attempt

    @property
    def redelivered(self) -> bool:
        """The process died in a run of this task before: part of its work may be done already."""
        message = self._run.message
        return message.crashes + message.interruptions > 0

    @property
    def crashes(self) -> int:
        """How often its process died in it."""
        return self._run.message.crashes

    @property
    def interruptions(self) -> int:
        """How often the server was stopped or reloaded while it ran."""
        return self._run.message.interruptions

    @property
    def executor(self) -> TaskExecutor:
        """Where it runs."""
        return TaskExecutor(self._run.executor)

    @property
    def buffer(self) -> dict[Any, Any]:
        """A dict that is kept over retries and re-calls."""
        return runner.load_buffer(self._run)

    def checkpoint(self) -> None:
        """Save ``buffer`` now: a run whose process is killed starts again with it.

        On ``RUNTIME``, where no run starts again, it does nothing.

        Raises:
            ArgumentsError: Something in the buffer can't be serialised.

        Example:
            >>> for page in pages[task.buffer.get("done", 0):]:  # doctest: +SKIP
            ...     handle(page)
            ...     task.buffer["done"] = task.buffer.get("done", 0) + 1
            ...     task.checkpoint()
        """
        run = self._run
        saved = runner.buffer_of(run)
        if run.executor == TaskExecutor.RUNTIME:
            return
        site = engine.current().require_site(run.spool)
        site.store.save_checkpoint(run.message.id, saved, on_disk=run.message.on_disk)
        run.checkpointed = True

    @overload
    def progress(self, done: float, total: float | None = None, message: str = "") -> None: ...

    @overload
    def progress(
        self, done: Iterable[T], total: float | None = None, message: str = ""
    ) -> Iterator[T]: ...

    def progress(self, done: Any, total: float | None = None, message: str = "") -> Any:
        """Tell how far the run is; cheap enough for a tight loop.

        Whoever looks from outside sees it, with the rate and the time left.

        Args:
            done: How much is done; or an iterable, whose items are given back and counted.
            total: Of how much; ``None`` where it isn't known. For an iterable: its length, if it
                has one.
            message: What it is doing, for people.

        Example:
            >>> for page in task.progress(pages):  # doctest: +SKIP
            ...     handle(page)
        """
        if isinstance(done, (int, float)):
            teller = self._run.teller
            if teller is None:
                teller = self._run.teller = engine.current().teller_of(self._run)
            teller.tell(done, total, message)
            return None
        return self._counted(done, total, message)

    def _counted(self, items: Iterable[T], total: float | None, message: str) -> Iterator[T]:
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]  # it has one
        self.progress(0, total, message)
        for number, item in enumerate(items, 1):
            yield item
            self.progress(number, total, message)

    @property
    def at(self) -> Any:
        """When it was due, or when the next step is to run; ``None`` for at once.

        Set a UNIX timestamp, a datetime or a timedelta; it holds for the next re-call only.
        """
        return self._run.at if self._run.at is not None else (self._run.message.at or None)

    @at.setter
    def at(self, value: Any) -> None:
        self._run.at = options.change(Options(), {"at": value}, self.name, call=True).at

    @property
    def retry_count(self) -> int:
        """How many executions are still allowed, this one included."""
        return self._run.executions_left

    @retry_count.setter
    def retry_count(self, value: int) -> None:
        changed = options.change(Options(), {"retry_count": value}, self.name, call=True)
        self._run.policy = self._run.policy._replace(executions=changed.retry_count)
        self._run.executions_left = changed.retry_count or 0

    @property
    def retry_timeout(self) -> float:
        """Seconds between an attempt and the next."""
        return self._run.policy.wait

    @retry_timeout.setter
    def retry_timeout(self, value: Any) -> None:
        changed = options.change(Options(), {"retry_timeout": value}, self.name, call=True)
        self._run.policy = self._run.policy._replace(wait=changed.retry_timeout)

    @property
    def setup(self) -> dict[str, Any]:
        """The options of this run, as a dict of its own."""
        message = self._run.message
        return {
            "at": self.at,
            "retry_count": self.retry_count,
            "retry_timeout": self.retry_timeout,
            "priority": message.priority,
            "queue": message.queue,
            "working_dir": message.working_dir or None,
            "buffer": self.buffer,
        }

    def __call__(self, *args: Any, **kwargs: Any) -> calls.Handle[Any]:
        """Submit the next step: the same task and buffer, a new id, fresh attempts."""
        run, this = self._run, engine.current()
        message = run.message
        declared = calls.declared.get(message.task, Options())
        chosen = declared if run.at is None else Options(at=run.at)
        changed = run.spec is not None and run.policy is not run.spec.policy
        step = Message(
            new_id(),
            message.task,
            calls.payload_of(message.task, args, kwargs, message.serializer),
            serializer=message.serializer,
            chain=message.chain,
            at=options.due(chosen, time.time(), this.settings.naive_at),
            priority=message.priority,
            queue=message.queue,
            policy=run.policy if changed else message.policy,
            reads_codes=message.reads_codes,
            working_dir=message.working_dir,
            working_dir_asked=message.working_dir_asked,
            buffer=runner.buffer_of(run),
            limits=message.limits,
            store_result=message.store_result,
        )
        created_at = int(step.id[:19]) / 1e9
        expires_at = options.expiry(declared, created_at, this.settings.naive_at)
        step = step._replace(created_at=created_at, expires_at=expires_at)
        run.at = None
        durability = "disk" if message.on_disk else None
        placement = Placement(run.executor, run.spool, declared.mule, durability=durability)
        return calls.handle_of(step.id, self._hand_over(this, step, placement))

    def _hand_over(self, this: engine.Engine, step: Message, placement: Placement) -> Receipt:
        return this.submit(step, placement)


class SpoolerTask(BaseTask):
    """The object of a task that runs in a spooler."""

    __slots__ = ()


class MuleTask(BaseTask):
    """The object of a task that runs in a mule."""

    __slots__ = ()


class RuntimeTask(BaseTask):
    """The object of a task that runs in its caller."""

    __slots__ = ()

    def _hand_over(self, this: engine.Engine, step: Message, placement: Placement) -> Receipt:
        if runner.depth.get() >= _RUNTIME_DEPTH:
            raise UwsgiTasksError(
                f"Task {step.task} called itself {_RUNTIME_DEPTH} times in place, as RUNTIME does:"
                f" such a chain needs a spooler"
            )
        return this.submit(step, placement)


_KINDS = {
    TaskExecutor.SPOOLER: SpoolerTask,
    TaskExecutor.MULE: MuleTask,
    TaskExecutor.RUNTIME: RuntimeTask,
}


def get_current_task() -> BaseTask | None:
    """Return the running task's object, or ``None`` outside of a run.

    Example:
        >>> get_current_task() is None
        True
    """
    run = runner.current.get()
    if run is None:
        return None
    if run.view is None:
        run.view = _KINDS[TaskExecutor(run.executor)](run)
    view: BaseTask = run.view
    return view
