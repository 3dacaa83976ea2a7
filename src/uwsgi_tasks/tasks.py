"""What users write and hold: ``@task``, the handle of a call, and the running task's object."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from . import engine, options, paths, runner, wire
from .errors import ArgumentsError, NotAvailable, OptionError, UwsgiTasksError
from .model import (
    SPOOL_IGNORE,
    SPOOL_OK,
    SPOOL_RETRY,
    Message,
    Placement,
    Receipt,
    Run,
    TaskExecutor,
    TaskSpec,
    new_id,
)
from .options import CALLER_DIR, Options
from .retry import RetryPolicy

__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "BaseTask",
    "Handle",
    "MuleTask",
    "RuntimeTask",
    "SpoolerTask",
    "Task",
    "TaskExecutor",
    "get_current_task",
    "task",
]

P = ParamSpec("P")
R = TypeVar("R")

_CO_COROUTINES = 0x80 | 0x200  # inspect.CO_COROUTINE | CO_ASYNC_GENERATOR, without its import
_RUNTIME_DEPTH = 50
_tasks: dict[str, Task[Any, Any]] = {}


class _Plan(NamedTuple):
    """Options, with what follows from them worked out once."""

    options: Options
    placement: Placement
    policy: RetryPolicy | None
    reads_codes: bool | None


class Handle(Generic[R]):
    """One call of a task: what is known of it from outside.

    Attributes:
        id: The message's id; it stays over retries.
        executor: Where it went.
    """

    __slots__ = ("_receipt", "executor", "id")

    def __init__(self, ident: str, receipt: Receipt) -> None:
        self.id = ident
        self.executor = TaskExecutor(receipt.executor)
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
        site = engine.current().require_site(self._receipt.spool)
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
        site = engine.current().require_site(self._receipt.spool)
        return site.cancel(self.id, [self._receipt.spool])


class Task(Generic[P, R]):
    """A function that can be called in the background: what ``@task`` makes of it.

    Life: made at decoration, which checks its options and registers the function by its name;
    each call makes a message and hands it to the engine.

    Args:
        function: The function.
        executor: A number of ``TaskExecutor``.
        **setup: Options; see ``task``.
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], executor: Any = None, **setup: Any) -> None:
        name = setup.get("name") or _checked_name(function)
        if executor is not None:
            setup["executor"] = executor
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name if isinstance(name, str) else ""
        declared = options.change(Options(), setup, self.name or repr(function), call=False)
        self.name = declared.name or self.name
        self._declared = declared
        self._plan = _Plan(declared, declared.placement(), None, None)
        reads_codes = declared.spooler_return or declared.retry_count is not None
        engine.registry.add(
            TaskSpec(
                self.name,
                function,
                declared.policy(),
                reads_codes,
                declared.spooler_return and declared.retry_count is None,
                declared.retry_on,
                declared.no_retry_on,
                declared.max_attempts,
            )
        )
        _tasks[self.name] = self

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_task_named, (self.name,))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: the object is the first argument, and travels with the call."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a call.

        Returns:
            Its handle; the task runs elsewhere, but for ``RUNTIME``.

        Raises:
            ArgumentsError: An argument can't be serialised; nothing was submitted.
            NotAvailable: No executor may take it.
            QueueFull: The mules have no room, and there is no spooler.
            MessageTooBig: It doesn't fit a mule, and there is no spooler.
        """
        return self._submit(self._plan, args, kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, here and now."""
        return self.function(*args, **kwargs)

    def options(self, **setup: Any) -> Call[P, R]:
        """Return a callable that submits with other options, for this call only.

        Example:
            >>> send_email.options(at=timedelta(hours=1), priority=5)("hello")  # doctest: +SKIP
        """
        return Call(self, self._changed(setup))

    def add_setup(self, **setup: Any) -> None:
        """Change this process's defaults of the task, for the calls that follow."""
        self._plan = self._changed(setup)

    def _changed(self, setup: Mapping[str, Any]) -> _Plan:
        changed = options.change(self._plan.options, setup, self.name, call=True)
        policy = changed.policy()
        reads_codes = changed.spooler_return or changed.retry_count is not None
        declared = self._declared
        same = reads_codes == (declared.spooler_return or declared.retry_count is not None)
        return _Plan(
            changed,
            changed.placement(),
            None if policy == declared.policy() else policy,
            None if same else reads_codes,
        )

    def _submit(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[R]:
        this = engine.current()
        ident = new_id()
        chosen = plan.options
        serializer = chosen.serializer or this.settings.serializer
        directory, asked = _directory(chosen)
        message = Message(
            ident,
            self.name,
            _payload(self.name, args, kwargs, serializer),
            serializer,
            int(ident[:19]) / 1e9,
            ident,
            options.moment(chosen.at, this.settings.naive_at) if chosen.at else 0.0,
            chosen.priority,
            chosen.queue,
            1,
            None,
            plan.policy,
            plan.reads_codes,
            directory,
            asked,
        )
        return _handle(ident, this.submit(message, plan.placement))


class Call(Generic[P, R]):
    """A task with options for one call."""

    __slots__ = ("_plan", "_task")

    def __init__(self, task: Task[P, R], plan: _Plan) -> None:
        self._task = task
        self._plan = plan

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a call; see ``Task``."""
        return self._task._submit(self._plan, args, kwargs)


def _handle(ident: str, receipt: Receipt) -> Handle[Any]:
    if receipt.error is not None:
        raise receipt.error
    return Handle(ident, receipt)


def _directory(chosen: Options) -> tuple[str, bool]:
    if chosen.working_dir != CALLER_DIR:
        return chosen.working_dir or "", True
    if chosen.executor == TaskExecutor.RUNTIME:
        return "", False
    try:
        return os.getcwd(), False
    except FileNotFoundError:  # the caller's directory was removed
        return "", False


def _payload(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str) -> bytes:
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


def _checked_name(function: Any) -> str:
    if not callable(function):
        raise OptionError(f"@task takes a function, not {type(function).__name__}")
    if isinstance(function, types.MethodType):
        raise OptionError(
            f"@task on {function.__qualname__}: a bound method can't be found by its name in"
            f" another process; decorate the function in the class, or a plain function"
        )
    if isinstance(function, Task):
        raise OptionError(f"{function.name} is a task already; decorate the function once")
    problem = paths.why_unreachable(function)
    if problem is not None:
        raise OptionError(
            f"@task on {getattr(function, '__qualname__', function)!s}: {problem}, so another"
            f" process can't find it; move it to the top of a module, or give it a name=…"
            f" under which the spooler registers it too"
        )
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & _CO_COROUTINES:
        raise OptionError(
            f"@task on {function.__qualname__}: an async function isn't supported yet;"
            f" wrap it in one that calls asyncio.run()"
        )
    return paths.name_of(function)


def _task_named(name: str) -> Task[Any, Any]:
    engine.registry.resolve(name)
    return _tasks[name]


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
    def executor(self) -> TaskExecutor:
        """Where it runs."""
        return TaskExecutor(self._run.executor)

    @property
    def buffer(self) -> dict[Any, Any]:
        """A dict that is kept over retries and re-calls."""
        return runner.load_buffer(self._run)

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

    def __call__(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Submit the next step: the same task and buffer, a new id, fresh attempts."""
        run, this = self._run, engine.current()
        message = run.message
        declared = _tasks[message.task]._plan.options if message.task in _tasks else Options()
        changed = run.spec is not None and run.policy is not run.spec.policy
        step = Message(
            new_id(),
            message.task,
            _payload(message.task, args, kwargs, message.serializer),
            serializer=message.serializer,
            chain=message.chain,
            at=options.moment(declared.at if run.at is None else run.at, this.settings.naive_at),
            priority=message.priority,
            queue=message.queue,
            policy=run.policy if changed else message.policy,
            reads_codes=message.reads_codes,
            working_dir=message.working_dir,
            working_dir_asked=message.working_dir_asked,
            buffer=runner.buffer_of(run),
        )
        step = step._replace(created_at=int(step.id[:19]) / 1e9)
        run.at = None
        placement = Placement(run.executor, run.spool, declared.mule)
        return _handle(step.id, self._hand_over(this, step, placement))

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


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(*, executor: Any = ..., **setup: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(function: Any = None, /, *, executor: Any = None, **setup: Any) -> Any:
    """Make a task of a function: calling it runs it in the background.

    Args:
        function: The function, where the decorator is used bare.
        executor: ``TaskExecutor.AUTO`` (spooler, else mule, else runtime), ``SPOOLER``, ``MULE``
            or ``RUNTIME``.
        **setup: ``working_dir`` (absolute path; default: the caller's; ``None``: leave it alone),
            ``priority`` (number or numeric text, smaller runs sooner), ``at`` (UNIX timestamp,
            datetime, timedelta), ``spooler_return`` (bool: returned ``SPOOL_*`` codes are read),
            ``retry_count`` (executions in all), ``retry_timeout`` (seconds or timedelta),
            ``retry_backoff`` (factor), ``retry_max_timeout``, ``retry_jitter`` (seconds or
            timedelta), ``retry_on``, ``no_retry_on`` (exception classes), ``max_attempts``,
            ``spooler`` (path, or ``uwsgi://host:port``), ``mule`` (number or name of a farm),
            ``queue``, ``name``, ``strict`` (bool: no fall-back), ``serializer`` (``"pickle"`` or
            ``"json"``).

    Returns:
        A ``Task``.

    Raises:
        OptionError: An option is unknown or of a wrong type, or the function can't be found by
            its name in another process.
        OptionValueError: An option has a value that can't be meant.

    Example:
        >>> @task(name="docs.add", executor=TaskExecutor.RUNTIME, retry_count=3)
        ... def add(a, b):
        ...     return a + b
        >>> add(1, 2).result()
        3
    """
    if function is not None:
        return Task(function, executor, **setup)
    return lambda function: Task(function, executor, **setup)
