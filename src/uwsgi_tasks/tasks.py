"""What users write and hold: ``@task``, the handle of a call, and the running task's object."""

from __future__ import annotations

import functools
import importlib
import os
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from . import calls, engine, options, paths
from .calls import Handle
from .errors import OptionError, OptionValueError, RetryTaskException
from .introspection import BaseTask, MuleTask, RuntimeTask, SpoolerTask, get_current_task
from .model import (
    SPOOL_IGNORE,
    SPOOL_OK,
    SPOOL_RETRY,
    Limits,
    Message,
    Placement,
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
    "RetryTaskException",
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
_tasks: dict[str, Task[Any, Any]] = {}


class _Plan(NamedTuple):
    """Options, with what follows from them worked out once."""

    options: Options
    placement: Placement
    policy: RetryPolicy | None
    reads_codes: bool | None
    limits: Limits | None = None
    store_result: bool | None = None


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
        check_function(function)
        name = setup.get("name") or checked_name(function)
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
                declared.limits(),
                declared.max_crashes,
                declared.store_result,
            )
        )
        _tasks[self.name] = self
        calls.declared[self.name] = declared

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

    def call_and_wait(self, *args: Any, timeout: float = 0.2, **kwargs: Any) -> Handle[R]:
        """Submit a call and wait for its end, but not for long: answer now if it is quick.

        Args:
            *args: Of the task.
            timeout: Seconds to wait at most.
            **kwargs: Of the task.

        Returns:
            Its handle, whether it ended or not.

        Raises:
            ArgumentsError: An argument can't be serialised; nothing was submitted.
            NotAvailable: No executor may take it.
            QueueFull: The mules have no room, and there is no spooler.
            MessageTooBig: It doesn't fit a mule, and there is no spooler.

        Example:
            >>> handle = report.call_and_wait(2026, timeout=0.2)  # doctest: +SKIP
            >>> handle.status()  # doctest: +SKIP
            'ok'
        """
        return _waited(self._submit(self._plan, args, kwargs), timeout)

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
        calls.declared[self.name] = self._plan.options

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
            None if changed.limits() == declared.limits() else changed.limits(),
            None if changed.store_result == declared.store_result else changed.store_result,
        )

    def _submit(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle[R]:
        this, message = engine.current(), self._message(plan, args, kwargs)
        keeps = plan.options.store_result
        keeps = this.settings.store_results if keeps is None else keeps
        receipt = this.submit(message, plan.placement)
        return calls.handle_of(message.id, receipt, keeps=keeps)

    def _message(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        this = engine.current()
        ident = new_id()
        chosen = plan.options
        serializer = chosen.serializer or this.settings.serializer
        directory, asked = _directory(chosen)
        now = time.time()
        message = Message(
            ident,
            self.name,
            calls.payload_of(self.name, args, kwargs, serializer),
            serializer,
            now,
            ident,
            options.due(chosen, now, this.settings.naive_at) if chosen.at or chosen.delay else 0.0,
            chosen.priority,
            chosen.queue,
            1,
            None,
            plan.policy,
            plan.reads_codes,
            directory,
            asked,
            limits=plan.limits,
            store_result=plan.store_result,
        )
        if chosen.expires is not None:
            message = _with_expiry(message, chosen, this.settings.naive_at)
        return message


class Call(Generic[P, R]):
    """A task with options for one call."""

    __slots__ = ("_plan", "_task")

    def __init__(self, task: Task[P, R], plan: _Plan) -> None:
        self._task = task
        self._plan = plan

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a call; see ``Task``."""
        return self._task._submit(self._plan, args, kwargs)

    def call_and_wait(self, *args: Any, timeout: float = 0.2, **kwargs: Any) -> Handle[R]:
        """Submit a call and wait for its end, but not for long; see ``Task``."""
        return _waited(self._task._submit(self._plan, args, kwargs), timeout)


def _waited(handle: Handle[R], timeout: float) -> Handle[R]:
    handle.wait(timeout)
    return handle


def template(
    found: Task[Any, Any] | Call[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Message, Options]:
    """Return the message of a call that isn't submitted, and the options that it has.

    Raises:
        ArgumentsError: An argument can't be serialised.
    """
    task, plan = (found._task, found._plan) if isinstance(found, Call) else (found, found._plan)
    return task._message(plan, args, kwargs), plan.options


def named(name: str) -> Task[Any, Any] | None:
    """Return the task of a name, where this process knows it."""
    return _tasks.get(name)


def _with_expiry(message: Message, chosen: Options, naive_at: str) -> Message:
    expires_at = options.expiry(chosen, message.created_at, naive_at)
    if message.at >= expires_at:
        when = f"delay={chosen.delay:g}" if chosen.delay else f"at={chosen.at!r}"
        raise OptionValueError(
            f"Task {message.task}: expires={chosen.expires!r} is before {when}: it would never run"
        )
    return message._replace(expires_at=expires_at)


def _directory(chosen: Options) -> tuple[str, bool]:
    if chosen.working_dir != CALLER_DIR:
        return chosen.working_dir or "", True
    if chosen.executor == TaskExecutor.RUNTIME:
        return "", False
    try:
        return os.getcwd(), False
    except FileNotFoundError:  # the caller's directory was removed
        return "", False


def check_function(function: Any) -> None:
    """Refuse what can't be a task, whatever its name.

    Raises:
        OptionError: It is no function, or one that couldn't run elsewhere.
    """
    if not callable(function):
        raise OptionError(f"@task takes a function, not {type(function).__name__}")
    if isinstance(function, types.MethodType):
        raise OptionError(
            f"@task on {function.__qualname__}: a bound method can't be found by its name in"
            f" another process; decorate the function in the class, or a plain function"
        )
    if isinstance(function, Task):
        raise OptionError(f"{function.name} is a task already; decorate the function once")
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & _CO_COROUTINES:
        raise OptionError(
            f"@task on {function.__qualname__}: an async function isn't supported yet;"
            f" wrap it in one that calls asyncio.run()"
        )


def checked_name(function: Any) -> str:
    """Return the name by which another process finds a function.

    Raises:
        OptionError: None would find it.
    """
    problem = paths.why_unreachable(function)
    if problem is not None:
        raise OptionError(
            f"@task on {getattr(function, '__qualname__', function)!s}: {problem}, so another"
            f" process can't find it; move it to the top of a module, or give it a name=…"
            f" under which the spooler registers it too"
        )
    return paths.name_of(function)


def _task_named(name: str) -> Task[Any, Any]:
    engine.current().resolve(name)
    return _tasks[name]


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
            datetime, timedelta) or ``delay`` (seconds or timedelta), ``spooler_return`` (bool:
            returned ``SPOOL_*`` codes are read),
            ``retry_count`` (executions in all), ``retry_timeout`` (seconds or timedelta),
            ``retry_backoff`` (factor), ``retry_max_timeout``, ``retry_jitter`` (seconds or
            timedelta), ``retry_on``, ``no_retry_on`` (exception classes), ``max_attempts``,
            ``spooler`` (path, or ``uwsgi://host:port``), ``mule`` (number or name of a farm),
            ``queue``, ``name``, ``strict`` (bool: no fall-back), ``serializer`` (``"pickle"`` or
            ``"json"``), ``timeout`` (seconds or timedelta: then its process is killed),
            ``soft_timeout`` (seconds or timedelta: then ``SoftTimeout`` is raised in it),
            ``expires`` (seconds or timedelta from the call, or a datetime: from then on it isn't
            started), ``max_crashes`` (deaths of its process after which it is dead),
            ``durability`` (``"os"``, ``"disk"`` or ``"memory"``), ``store_result`` (bool: what it
            returns is kept for ``handle.result()``).

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


def __getattr__(name: str) -> Any:
    """Give the names that release 0.7.3 had here and that live above this module now."""
    if name in ("CronTask", "OneTimeTask", "SignalTask", "TimerTask"):
        return getattr(importlib.import_module("uwsgi_tasks.timers"), name)
    if name == "set_uwsgi_callbacks":
        return importlib.import_module("uwsgi_tasks.handlers").install
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
