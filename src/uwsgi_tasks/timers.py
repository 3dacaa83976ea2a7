"""Timers and cron: schedules as users write them.

A schedule is declared once per instance, whatever process imports its module; the timekeeper of the
home fires it. The decorated name is the schedule object: calling it (re)starts the schedule.
"""

from __future__ import annotations

import functools
import logging
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, overload

from . import calls, definition, engine, schedule, tasks
from .definition import COMMON, Check, Definition
from .errors import OptionError, OptionValueError
from .model import Message, Schedule, TaskSpec, new_id

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
        name: Its name; default: that of the function.
        **setup: Options; see ``timer`` and ``cron``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        target: str = "",
        *,
        lazy: bool = False,
        name: str | None = None,
        **setup: Any,
    ) -> None:
        tasks.check_function(function)
        self.name = _name_of(function, name)
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
        site.store.start(self.row())
        site.home.wake_timekeeper()

    def run(self, *args: Any) -> Any:
        """Call the plain function, here and now; without arguments it gets its signal number."""
        if args:
            return self.function(*args)
        return _without_extra(self.function)(
            self.number, *self._setup.get("args", ()), **self._setup.get("kwargs", {})
        )

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
        return self._setup.get("iterations") or None

    def definition(self) -> Definition:
        """Return what it is to do, with its present set-up."""
        rule, setup = self.rule(), self._setup
        period = rule.seconds if isinstance(rule, schedule.Every) else None
        arguments = ((self.number, *setup.get("args", ())), setup.get("kwargs", {}))
        ident = new_id()
        return Definition(
            self.name,
            rule,
            self.target,
            self.number,
            Message(ident, self.name, calls.payload_of(self.name, *arguments, "pickle")),
            definition.options_of(setup, self.name, period)._replace(lazy=self.lazy),
            self.iterations(),
            self.function.__module__,
        )

    def row(self) -> Schedule:
        """Return the row of the store that stands for it when it begins now."""
        this = engine.current()
        site = this.site()
        signer = None if site is None else site.signer
        return self.definition().row(time.time(), signer, this.server.incarnation)

    def _change(self, setup: dict[str, Any]) -> None:
        before = self._setup
        self._setup = {**before, **definition.checked(setup, self._checks(), self.name)}
        try:
            self.definition()  # parts that don't go together are refused before anything changed
        except BaseException:
            self._setup = before
            raise

    def _checks(self) -> dict[str, Check]:
        return COMMON


class TimerTask(SignalTask):
    """A schedule with a period."""

    def rule(self) -> schedule.Rule | None:
        """See ``SignalTask``."""
        seconds = self._setup.get("seconds")
        return None if seconds is None else schedule.Every(seconds)

    def _checks(self) -> dict[str, Check]:
        return {"seconds": definition.period, **COMMON}


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

    def _checks(self) -> dict[str, Check]:
        fields = dict.fromkeys((*_CRON_FIELDS, "expression"), _unchecked)
        return {**fields, **COMMON}


_CRON_FIELDS = ("minute", "hour", "day", "month", "dayweek")
declared: dict[str, SignalTask] = {}
"""The schedules that were declared in this process or inherited over a fork."""
on_declared: list[Callable[[SignalTask], None]] = []
"""Told of each schedule at its declaration; the handlers write it down where a server runs."""


Function = Callable[..., Any]


def timer(
    *,
    seconds: float | timedelta,
    iterations: int | None = None,
    target: str = "",
    **options: Any,
) -> Callable[[Function], TimerTask]:
    """Run a function every so many seconds, from the start of the server on.

    Args:
        seconds: The period: seconds (int, float) or a ``timedelta``.
        iterations: How often it fires; ``None`` or 0 for ever.
        target: Where it runs; see ``SignalTask``.
        **options: ``args`` and ``kwargs`` (given to the function after the signal number),
            ``missed`` (``"skip"``, ``"once"`` or ``"all"``: what follows from moments at which no
            server ran), ``overlap`` (``"skip"``, ``"queue"`` or ``"allow"``: what follows where the
            last firing isn't over), ``jitter`` (seconds or ``timedelta``; up to so much is added to
            each moment), ``start`` and ``end`` (``datetime`` or UNIX timestamp), ``tz`` (zone of a
            naive ``start`` and ``end``), ``name`` (default: the function's).

    Returns:
        A decorator that gives a ``TimerTask``.

    Raises:
        OptionError: A name is unknown, or a value is of a wrong type.
        OptionValueError: A value can't be meant.
        ArgumentsError: An argument can't be serialised.

    Example:
        >>> @timer(seconds=30)  # doctest: +SKIP
        ... def sweep(signal_number):
        ...     ...
    """
    return _decorator(TimerTask, target, seconds=seconds, iterations=iterations, **options)


@overload
def timer_lazy(function: Function, /) -> TimerTask: ...


@overload
def timer_lazy(
    *,
    seconds: float | timedelta | None = ...,
    iterations: int | None = ...,
    target: str = ...,
    **options: Any,
) -> Callable[[Function], TimerTask]: ...


def timer_lazy(
    function: Any = None,
    *,
    seconds: float | timedelta | None = None,
    iterations: int | None = None,
    target: str = "",
    **options: Any,
) -> Any:
    """Like ``timer``, but it starts when the decorated name is called, from any process.

    The period may be left to ``add_setup(seconds=…)`` before the call.
    """
    setup = {"seconds": seconds, "iterations": iterations, **options}
    decorate = _decorator(TimerTask, target, lazy=True, **setup)
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
    **options: Any,
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
    **options: Any,
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
        **options: ``iterations``, and those of ``timer``.

    Returns:
        A decorator that gives a ``CronTask``.

    Raises:
        OptionError: A name is unknown, or a value is of a wrong type.
        OptionValueError: A value can't be meant.
        ArgumentsError: An argument can't be serialised.

    Example:
        >>> @cron("0 9 * * mon-fri", tz="Europe/Rome")  # doctest: +SKIP
        ... def wake_up(signal_number):
        ...     ...
    """
    if callable(minute):
        return CronTask(minute)
    setup = _cron_setup((minute, hour, day, month, dayweek), tz)
    return _cron_decorator({"target": target, **setup, **options})


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
    **options: Any,
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
    **options: Any,
) -> Any:
    """Like ``cron``, but it starts when the decorated name is called, from any process."""
    if callable(minute):
        return CronTask(minute, lazy=True)
    setup = _cron_setup((minute, hour, day, month, dayweek), tz)
    return _cron_decorator({"target": target, "lazy": True, **setup, **options})


def _name_of(function: Callable[..., Any], asked: str | None) -> str:
    """Return its name, or one with a number where another function of the module has it."""
    if asked is not None:
        return str(definition.checked({"name": asked}, {"name": definition.word}, "name")["name"])
    free = name = tasks.checked_name(function)
    number = 1
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


def _cron_setup(fields: tuple[Any, ...], tz: str | None) -> dict[str, Any]:
    if isinstance(fields[0], str):
        if fields[1:] != (-1, -1, -1, -1):
            raise OptionError("cron: an expression says everything; leave the other fields out")
        schedule.CronExpression(fields[0], tz).checked()
        return {"expression": fields[0], "tz": tz}
    if tz is not None:
        raise OptionError("cron: tz goes with an expression, like cron('0 9 * * *', tz=…)")
    setup: dict[str, Any] = dict(zip(_CRON_FIELDS, fields, strict=True))
    schedule.cron_fields(**setup)
    return setup


def _cron_decorator(setup: dict[str, Any]) -> Callable[[Function], CronTask]:
    def decorate(function: Callable[..., Any]) -> CronTask:
        found = CronTask(function, **setup)
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


def _without_extra(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable that takes the signal number first, and leaves it out where it has no room.

    That is beside the arguments of the schedule.
    """
    innermost = function
    while hasattr(innermost, "__wrapped__"):
        innermost = innermost.__wrapped__
    code = getattr(innermost, "__code__", None)
    if code is None or code.co_flags & 0x04:  # *args
        return function
    names = code.co_varnames[: code.co_argcount]

    def call(signal_number: int, *args: Any, **kwargs: Any) -> Any:
        room = len(names) - len(args) - sum(name in names for name in kwargs)
        return function(*((signal_number,) if room > 0 else ()), *args, **kwargs)

    return call
