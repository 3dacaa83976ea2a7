"""What a schedule is to do, as the code says it: its options, checked, and the row made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from . import engine, options, schedule, server, wire
from .config import suggest
from .errors import OptionError, OptionValueError
from .model import DECLARED, Message, Schedule, ScheduleOptions

Check = Callable[[Any], Any]


class Definition(NamedTuple):
    """A schedule as it was written.

    Attributes:
        name: Its name.
        rule: When it is due; ``None`` while that isn't known.
        target: Where it runs; empty: by its task's options.
        number: The signal number that its function gets.
        message: The template of what it submits.
        options: What it says besides.
        iterations: How often it fires; ``None`` for ever.
        module: The module that declares it.
    """

    name: str
    rule: schedule.Rule | None
    target: str
    number: int
    message: Message
    options: ScheduleOptions
    iterations: int | None = None
    module: str = ""

    def row(
        self, now: float, signer: wire.Signer | None, incarnation: str, origin: str = DECLARED
    ) -> Schedule:
        """Return the row that stands for it when it begins now.

        Args:
            now: Epoch seconds.
            signer: Signs the template; without one it has none.
            incarnation: The start of the server that it belongs to.
            origin: ``DECLARED`` or ``ADDED``.
        """
        rule, chosen = self.rule, self.options
        first = None if rule is None else schedule.first_moment(rule, now, chosen.start, chosen.end)
        return Schedule(
            self.name,
            self.message.task,
            origin,
            self.module,
            incarnation,
            json.dumps(None if rule is None else rule.dump()),
            self.target,
            self.number,
            b"" if signer is None else wire.pack(self.message, signer),
            json.dumps(chosen),
            self.iterations,
            first is not None,
            False,
            first,
            first,
            digest=self.digest(),
        )

    def digest(self) -> str:
        """Return what tells this definition from another one."""
        message = self.message._replace(id="", chain="", created_at=0.0, expires_at=0.0)
        rule = None if self.rule is None else self.rule.dump()
        parts = (rule, self.target, tuple(self.options), self.iterations, tuple(message))
        return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def checked(setup: Mapping[str, Any], checks: Mapping[str, Check], name: str) -> dict[str, Any]:
    """Return the values of options, checked.

    Args:
        setup: Names and values, as the user wrote them.
        checks: What checks each, by name.
        name: Of the schedule, for the errors.

    Raises:
        OptionError: A name is unknown, or a value is of a wrong type.
        OptionValueError: A value can't be meant.
    """
    found: dict[str, Any] = {}
    for option, value in setup.items():
        if option not in checks:
            hint = suggest(option, checks) or ""
            raise OptionError(
                f"{name}: there is no option {option!r}{hint}; it takes {', '.join(checks)}"
            )
        try:
            found[option] = checks[option](value)
        except TypeError as error:
            raise OptionError(f"{name}: {option}={value!r}: {error}") from None
        except (ValueError, OverflowError) as error:
            raise OptionValueError(f"{name}: {option}={value!r}: {error}") from None
    return found


def options_of(setup: Mapping[str, Any], name: str, period: float | None) -> ScheduleOptions:
    """Return the options that checked values mean together.

    Args:
        setup: Checked values, by name.
        name: Of the schedule, for the errors.
        period: Its period in seconds, if it has one.

    Raises:
        OptionValueError: Two of them say something against each other.
    """
    start, end = (_moment(setup.get(option), setup.get("tz")) for option in ("start", "end"))
    jitter = setup.get("jitter") or 0.0
    if end and start >= end:
        raise OptionValueError(f"{name}: start={setup['start']!r} isn't before its end")
    if period is not None and jitter >= period:
        raise OptionValueError(
            f"{name}: jitter={jitter:g} has to be shorter than the period of {period:g} s"
        )
    return ScheduleOptions(
        setup.get("missed", "skip"), setup.get("overlap", "skip"), jitter, start, end
    )


def _moment(value: Any, tz: str | None) -> float:
    if isinstance(value, datetime) and value.tzinfo is None and tz is not None:
        value = value.replace(tzinfo=schedule.zone(tz))
    return options.moment(value, engine.current().settings.naive_at)


# checks of single values


def target(value: Any) -> str:
    """Check a target."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("it takes a text")
    problem = server.target_problem(value, engine.current().server)
    if problem is not None:
        raise ValueError(problem)
    return value


def period(value: Any) -> float:
    """Check a period."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes seconds (int, float) or a timedelta")
    if not 0 < value < float("inf"):
        raise ValueError("it takes more than 0 seconds")
    return float(value)


def iterations(value: Any) -> int:
    """Check how often it fires."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError("it takes a whole number, or None for ever")
    if value is not None and value < 0:
        raise ValueError("it takes 0 (for ever) or more")
    return value or 0


def time_zone(value: Any) -> str | None:
    """Check a time zone."""
    if value is not None and not isinstance(value, str):
        raise TypeError("it takes the name of a zone, like 'Europe/Rome'")
    if value is not None:
        schedule.zone(value)
    return value


def word(value: Any) -> str:
    """Check a name."""
    if not isinstance(value, str):
        raise TypeError("it takes a text")
    if not value or len(value) > 255 or not value.isprintable():
        raise ValueError("it takes a printable text of 1 to 255 characters")
    return value


def _jitter(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes seconds (int, float) or a timedelta")
    if not 0 <= value < float("inf"):
        raise ValueError("it takes 0 seconds or more")
    return float(value)


def _limit(value: Any) -> Any:
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes a datetime, a UNIX timestamp, or None")
    if not 0 <= value < 1e12:
        raise ValueError("it takes a datetime, a UNIX timestamp, or None")
    return value


def _args(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError("it takes a tuple or a list of positional arguments")
    return tuple(value)


def _kwargs(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError("it takes a dict of arguments by name")
    if not all(isinstance(key, str) for key in value or ()):
        raise TypeError("it takes a dict of arguments by name")
    return dict(value or {})


def _one_of(allowed: Iterable[str]) -> Check:
    words = tuple(allowed)

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"it takes {', '.join(map(repr, words[:-1]))} or {words[-1]!r}")
        return str(value)

    return check


COMMON: dict[str, Check] = {
    "target": target,
    "missed": _one_of(("skip", "once", "all")),
    "overlap": _one_of(("skip", "queue", "allow")),
    "jitter": _jitter,
    "start": _limit,
    "end": _limit,
    "args": _args,
    "kwargs": _kwargs,
    "iterations": iterations,
    "tz": time_zone,
}
"""The options that every schedule takes, and what checks them."""
