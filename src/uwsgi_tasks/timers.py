"""Timers and cron: schedules as users write them.

A schedule is declared once per instance, whatever process imports its module; the timekeeper of the
home fires it. The decorated name is the schedule object: calling it (re)starts the schedule.
"""

from __future__ import annotations

import functools
import json
import logging
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, overload

from . import config, engine, schedule, server, tasks
from .errors import OptionError, OptionValueError
from .model import Schedule, TaskSpec

__all__ = [
    "CronTask",
    "OneTimeTask",
    "SignalTask",
    "TimerTask",
    "cron",
    "cron_lazy",
    "timer",
    "timer_lazy",
]

logger = logging.getLogger(__name__)


class SignalTask:
    """A schedule: a function, a rule that says when, and a target that says where.

    Life: declared by a decorator; written into the store of the home when the server runs; started
    at declaration or (lazy ones) by a call; fired by the timekeeper.

    Args:
        function: The function; it gets the signal number if it takes an argument.
        target: ``''`` (spooler, else mule, else a worker), ``worker``, ``workers``, ``workerN``,
            ``active-workers``, ``mule``, ``mules``, ``muleN``, ``farm_NAME`` or ``spooler``.
        lazy: It starts at the first call, not at declaration.
    """

    def __init__(
        self, function: Callable[..., Any], target: str = "", *, lazy: bool = False, **setup: Any
    ) -> None:
        tasks.check_function(function)
        self.name = _free_name(tasks.checked_name(function), function)
        functools.update_wrapper(self, function)
        self.function = function
        self.lazy = lazy
        self.number = zlib.crc32(self.name.encode()) & 0x7FFFFFFF
        self._setup: dict[str, Any] = {}
        self._change({"target": target, **setup})
        engine.registry.add(TaskSpec(self.name, _without_extra(function)))
        declared[self.name] = self
        for announce in on_declared:
            announce(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __call__(self) -> None:
        """Start the schedule, or start it anew with its present set-up."""
        site = engine.current().site()
        if site is None:
            logger.warning("%s isn't started: there is no uWSGI server here", self.name)
            return
        if self.rule() is None:
            raise OptionValueError(f"{self.name} can't start: it has no seconds yet; use add_setup")
        site.store.start(self.row(active=True))
        site.home.wake_timekeeper()

    def run(self, *args: Any) -> Any:
        """Call the plain function, here and now; without arguments it gets its signal number."""
        if args:
            return self.function(*args)
        return _without_extra(self.function)(self.number)

    def stop(self) -> bool:
        """Stop the schedule.

        Returns:
            False if it didn't run.

        Raises:
            NotAvailable: There is no home here.
        """
        return engine.current().require_site().store.stop(self.name)

    def add_setup(self, **setup: Any) -> None:
        """Change the set-up for the starts that follow, in this process.

        Raises:
            OptionError: A name is unknown or a value of a wrong type.
            OptionValueError: A value can't be meant.
        """
        self._change(setup)

    @property
    def target(self) -> str:
        """Where it runs."""
        return str(self._setup["target"])

    def rule(self) -> schedule.Rule | None:
        """Return when it is due, or ``None`` while that isn't known."""
        return None

    def iterations(self) -> int | None:
        """Return how often it fires after a start; ``None`` for ever."""
        return None

    def row(self, *, active: bool) -> Schedule:
        """Return the row of the store that stands for it."""
        rule = self.rule()
        next_at = rule.next_after(time.time(), None) if rule is not None and active else None
        return Schedule(
            self.name,
            engine.current().server.incarnation,
            json.dumps(rule.dump() if rule is not None else None),
            self.target,
            self.number,
            self.iterations(),
            active,
            next_at,
        )

    def _change(self, setup: dict[str, Any]) -> None:
        unknown = [name for name in setup if name not in self._checks()]
        if unknown:
            hint = config.suggest(unknown[0], self._checks())
            raise OptionError(
                f"{self.name}: there is no option {unknown[0]!r}{hint or ''};"
                f" it takes {', '.join(self._checks())}"
            )
        before = self._setup
        self._setup = dict(before)
        try:
            self._apply(setup)
        except BaseException:
            self._setup = before
            raise

    def _apply(self, setup: dict[str, Any]) -> None:
        for name, value in setup.items():
            try:
                self._setup[name] = self._checks()[name](value)
            except TypeError as error:
                raise OptionError(f"{self.name}: {name}={value!r}: {error}") from None
            except (ValueError, OverflowError) as error:
                raise OptionValueError(f"{self.name}: {name}={value!r}: {error}") from None
        self.rule()  # a cron whose parts don't go together is refused before anything changed

    def _checks(self) -> dict[str, Callable[[Any], Any]]:
        return {"target": _target}


class TimerTask(SignalTask):
    """A schedule with a period."""

    def rule(self) -> schedule.Rule | None:
        """See ``SignalTask``."""
        seconds = self._setup.get("seconds")
        return None if seconds is None else schedule.Every(seconds)

    def iterations(self) -> int | None:
        """See ``SignalTask``."""
        return self._setup.get("iterations") or None

    def _checks(self) -> dict[str, Callable[[Any], Any]]:
        return {"seconds": _period, "iterations": _iterations, "target": _target}


class OneTimeTask(TimerTask):
    """A schedule that fires once after each call, at once."""

    def __init__(self, function: Callable[..., Any], target: str = "") -> None:
        super().__init__(function, target, lazy=True, seconds=0.001, iterations=1)


class CronTask(SignalTask):
    """A schedule with the rule of a cron."""

    def rule(self) -> schedule.Rule | None:
        """See ``SignalTask``."""
        expression = self._setup.get("expression")
        if expression is not None:
            return schedule.CronExpression(expression, self._setup.get("tz")).checked()
        fields = {name: self._setup.get(name, -1) for name in _CRON_FIELDS}
        return schedule.cron_fields(**fields)

    def _checks(self) -> dict[str, Callable[[Any], Any]]:
        fields = dict.fromkeys((*_CRON_FIELDS, "expression", "tz"), _unchecked)
        return {**fields, "target": _target}


_CRON_FIELDS = ("minute", "hour", "day", "month", "dayweek")
declared: dict[str, SignalTask] = {}
"""The schedules that were declared in this process or inherited over a fork."""
on_declared: list[Callable[[SignalTask], None]] = []
"""Told of each schedule at its declaration; the handlers write it down where a server runs."""


Function = Callable[..., Any]


def timer(
    *, seconds: float | timedelta, iterations: int | None = None, target: str = ""
) -> Callable[[Function], TimerTask]:
    """Run a function every so many seconds, from the start of the server on.

    Args:
        seconds: The period: seconds (int, float) or a ``timedelta``.
        iterations: How often it fires; ``None`` or 0 for ever.
        target: Where it runs; see ``SignalTask``.

    Returns:
        A decorator that gives a ``TimerTask``.

    Raises:
        OptionError: A value is of a wrong type.
        OptionValueError: A value can't be meant.

    Example:
        >>> @timer(seconds=30)  # doctest: +SKIP
        ... def sweep(signal_number):
        ...     ...
    """
    return _decorator(TimerTask, target, seconds=seconds, iterations=iterations)


@overload
def timer_lazy(function: Function, /) -> TimerTask: ...


@overload
def timer_lazy(
    *,
    seconds: float | timedelta | None = ...,
    iterations: int | None = ...,
    target: str = ...,
) -> Callable[[Function], TimerTask]: ...


def timer_lazy(
    function: Any = None,
    *,
    seconds: float | timedelta | None = None,
    iterations: int | None = None,
    target: str = "",
) -> Any:
    """Like ``timer``, but it starts when the decorated name is called, from any process.

    The period may be left to ``add_setup(seconds=…)`` before the call.
    """
    decorate = _decorator(TimerTask, target, lazy=True, seconds=seconds, iterations=iterations)
    return decorate if function is None else decorate(function)


@overload
def cron(minute: Function, /) -> CronTask: ...


@overload
def cron(
    minute: int | str = ...,
    hour: int = ...,
    day: int = ...,
    month: int = ...,
    dayweek: int = ...,
    *,
    target: str = ...,
    tz: str | None = ...,
) -> Callable[[Function], CronTask]: ...


def cron(
    minute: Any = -1,
    hour: int = -1,
    day: int = -1,
    month: int = -1,
    dayweek: int = -1,
    *,
    target: str = "",
    tz: str | None = None,
) -> Any:
    """Run a function at the moments of a cron, from the start of the server on.

    Args:
        minute: uWSGI's integer (-1: any, ``-n``: every value that n divides), or a cron expression
            of five fields, or ``"@hourly"`` … ``"@yearly"``.
        hour: As minute, 0 to 23, in the server's local time.
        day: Day of the month, 1 to 31.
        month: 1 to 12.
        dayweek: 0 to 7, 0 and 7 are Sunday.
        target: Where it runs; see ``SignalTask``.
        tz: Zone of a cron expression, like ``"Europe/Rome"``; default: the server's own.

    Returns:
        A decorator that gives a ``CronTask``.

    Raises:
        OptionValueError: A value can't be meant.

    Example:
        >>> @cron("0 9 * * mon-fri", tz="Europe/Rome")  # doctest: +SKIP
        ... def wake_up(signal_number):
        ...     ...
    """
    return _decorate_cron(minute, hour, day, month, dayweek, target, tz, lazy=False)


@overload
def cron_lazy(minute: Function, /) -> CronTask: ...


@overload
def cron_lazy(
    minute: int | str = ...,
    hour: int = ...,
    day: int = ...,
    month: int = ...,
    dayweek: int = ...,
    *,
    target: str = ...,
    tz: str | None = ...,
) -> Callable[[Function], CronTask]: ...


def cron_lazy(
    minute: Any = -1,
    hour: int = -1,
    day: int = -1,
    month: int = -1,
    dayweek: int = -1,
    *,
    target: str = "",
    tz: str | None = None,
) -> Any:
    """Like ``cron``, but it starts when the decorated name is called, from any process."""
    return _decorate_cron(minute, hour, day, month, dayweek, target, tz, lazy=True)


def _free_name(name: str, function: Callable[..., Any]) -> str:
    """Return the name, or one with a number where another function of the module has it."""
    free, number = name, 1
    while free in declared and _place(declared[free].function) != _place(function):
        number += 1
        free = f"{name}#{number}"
    return free


def _place(function: Any) -> tuple[str, int] | None:
    code = getattr(function, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)


def _decorator(
    kind: type[TimerTask], target: str, *, lazy: bool = False, **setup: Any
) -> Callable[[Function], TimerTask]:
    given = {name: value for name, value in setup.items() if value is not None}
    return lambda function: kind(function, target, lazy=lazy, **given)


def _decorate_cron(
    minute: Any, hour: int, day: int, month: int, dayweek: int, target: str, tz: Any, *, lazy: bool
) -> Any:
    setup: dict[str, Any]
    if callable(minute):
        return CronTask(minute, target, lazy=lazy)
    if isinstance(minute, str):
        if (hour, day, month, dayweek) != (-1, -1, -1, -1):
            raise OptionError("cron: an expression says everything; leave the other fields out")
        setup = {"expression": minute, "tz": tz}
        schedule.CronExpression(minute, tz).checked()
    else:
        if tz is not None:
            raise OptionError("cron: tz goes with an expression, like cron('0 9 * * *', tz=…)")
        setup = dict(zip(_CRON_FIELDS, (minute, hour, day, month, dayweek), strict=True))
        schedule.cron_fields(**setup)

    def decorate(function: Callable[..., Any]) -> CronTask:
        found = CronTask(function, target, lazy=lazy, **setup)
        if setup.get("minute") == -1 and setup.get("hour", -1) >= 0:
            logger.warning(
                "%s: cron(hour=%d) means every minute of that hour; add minute=0 to run it once",
                found.name,
                setup["hour"],
            )
        return found

    return decorate


def _unchecked(value: Any) -> Any:
    return value


def _target(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("it takes a text")
    problem = server.target_problem(value, engine.current().server)
    if problem is not None:
        raise ValueError(problem)
    return value


def _period(value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes seconds (int, float) or a timedelta")
    if not 0 < value < float("inf"):
        raise ValueError("it takes more than 0 seconds")
    return float(value)


def _iterations(value: Any) -> int:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError("it takes a whole number, or None for ever")
    if value is not None and value < 0:
        raise ValueError("it takes 0 (for ever) or more")
    return value or 0


def _without_extra(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable that takes the signal number and leaves it out where it isn't wanted."""
    innermost = function
    while hasattr(innermost, "__wrapped__"):
        innermost = innermost.__wrapped__
    code = getattr(innermost, "__code__", None)
    if code is None or code.co_argcount or code.co_flags & 0x04:  # *args
        return function
    return lambda signal_number: function()
