"""The options of a task: checked once, at decoration or call, never again on the way."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from .config import suggest
from .errors import OptionError, OptionValueError
from .executors import network
from .model import EXECUTOR_NAMES, UNLIMITED, Limits, Placement, TaskExecutor
from .retry import RetryPolicy

CALLER_DIR = "<caller's>"
"""As ``working_dir``: the directory in which the caller is at the call."""


class Options(NamedTuple):
    """What a decorator, a call, or ``add_setup`` may say; the defaults say nothing."""

    executor: int = TaskExecutor.AUTO
    working_dir: str | None = CALLER_DIR
    priority: float | None = None
    at: Any = None
    delay: float = 0.0
    spooler_return: bool = False
    retry_count: int | None = None
    retry_timeout: float = 0.0
    spooler: str = ""
    mule: int | str | None = None
    queue: str = "default"
    name: str = ""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()
    retry_backoff: float | None = None
    retry_max_timeout: float | None = None
    retry_jitter: float = 0.0
    max_attempts: int | None = None
    strict: bool | None = None
    serializer: str | None = None
    timeout: float = 0.0
    soft_timeout: float = 0.0
    expires: Any = None
    max_crashes: int | None = None
    durability: str | None = None
    store_result: bool | None = None

    def placement(self) -> Placement:
        """Return where a call asks to be run."""
        return Placement(self.executor, self.spooler, self.mule, self.strict, self.durability)

    def limits(self) -> Limits:
        """Return how long a run may take."""
        if not self.timeout and not self.soft_timeout:
            return UNLIMITED
        return Limits(self.timeout, self.soft_timeout)

    def policy(self) -> RetryPolicy:
        """Return the rules by which it is retried."""
        return RetryPolicy(
            self.retry_count,
            self.retry_timeout,
            self.retry_backoff,
            self.retry_max_timeout,
            self.retry_jitter,
        )


_MOST = 1e15
NOT_PER_CALL = frozenset({"name", "retry_on", "no_retry_on", "max_attempts", "max_crashes"})
RETRY_OPTIONS = frozenset(
    {"retry_count", "retry_timeout", "retry_backoff", "retry_max_timeout", "retry_jitter"}
)


def change(options: Options, values: Mapping[str, Any], task: str, *, call: bool) -> Options:
    """Return the options with values changed, checked.

    Args:
        options: What held before.
        values: Names and values, as the user wrote them.
        task: Name of the task, for the errors.
        call: They are said at a call, not by the decorator.

    Raises:
        OptionError: A name is unknown, not allowed there, or a value is of a wrong type.
        OptionValueError: A value can't be meant.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        check = _CHECKS.get(name)
        if check is None:
            hint = suggest(name, _CHECKS) or f". Options: {', '.join(_CHECKS)}"
            raise OptionError(f"Task {task}: there is no option {name!r}{hint}")
        if call and name in NOT_PER_CALL:
            raise OptionError(f"Task {task}: {name} belongs to the decorator, not to a call")
        try:
            checked[name] = check(value)
        except TypeError as error:
            raise OptionError(f"Task {task}: {name}={_shown(value)}: {error}") from None
        except (ValueError, OverflowError) as error:
            raise OptionValueError(f"Task {task}: {name}={_shown(value)}: {error}") from None
    if checked.get("at") is not None:  # whichever is said last holds
        checked.setdefault("delay", 0.0)
    elif values.get("delay") is not None:
        checked.setdefault("at", None)
    changed = options._replace(**checked)
    problem = _contradiction(changed)
    if problem is not None:
        raise OptionValueError(f"Task {task}: {problem}")
    return changed


def _contradiction(options: Options) -> str | None:
    """Return what two options say against each other, or ``None``."""
    if options.at is not None and options.delay:
        return (
            f"at={_shown(options.at)} and delay={options.delay:g} both say when it runs: give one"
        )
    if options.timeout and options.soft_timeout >= options.timeout:
        return (
            f"soft_timeout={options.soft_timeout:g} has to be shorter than"
            f" timeout={options.timeout:g}, which ends the process"
        )
    if options.durability == "memory" and options.executor == TaskExecutor.SPOOLER:
        return "durability='memory' is a mule's: use executor=MULE or AUTO, or durability='os'"
    if options.durability == "disk" and options.executor == TaskExecutor.MULE:
        return "durability='disk' needs a spooler: use executor=SPOOLER or AUTO"
    return None


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001  the value is the user's, and so is its __repr__
        return f"<{type(value).__name__}>"


def _executor(value: Any) -> int:
    if isinstance(value, str) and value.lower() in EXECUTOR_NAMES.values():
        return next(n for n, name in EXECUTOR_NAMES.items() if name == value.lower())
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError("it takes a TaskExecutor")
    if value not in EXECUTOR_NAMES:
        raise ValueError("it takes TaskExecutor.AUTO, SPOOLER, MULE or RUNTIME")
    return int(value)


def _directory(value: Any) -> str | None:
    if value is None or value == CALLER_DIR:
        return None if value is None else CALLER_DIR
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError("it takes a path as text, or None")
    if not os.path.isabs(path):
        raise ValueError("it takes an absolute path, or None")
    return path


def _priority(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
        raise TypeError("it takes a number, or a numeric text; smaller runs sooner")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("it takes a number, or a numeric text; smaller runs sooner")
    return number


def _at(value: Any) -> Any:
    if value is None or isinstance(value, (datetime, timedelta)):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes a UNIX timestamp, a datetime, a timedelta, or None")
    if not abs(value) < _MOST:
        raise ValueError("it takes a finite number")
    return value


def moment(at: Any, naive_at: str) -> float:
    """Return an ``at`` as epoch seconds; 0 is now.

    Args:
        at: A checked value of the option.
        naive_at: ``"local"`` or ``"utc"``: how a datetime without a zone is read.
    """
    if not at:
        return 0.0
    if isinstance(at, timedelta):
        return time.time() + float(at.total_seconds()) if at > timedelta(0) else 0.0
    if isinstance(at, datetime):
        if at.tzinfo is None and naive_at == "utc":
            at = at.replace(tzinfo=timezone.utc)
        return max(0.0, float(at.timestamp()))
    return max(0.0, float(at))


def due(options: Options, now: float, naive_at: str) -> float:
    """Return from when on a call may run, as epoch seconds; 0 is at once.

    Args:
        options: The options of the call.
        now: Epoch seconds of the call.
        naive_at: How a datetime without a zone is read.
    """
    if options.delay:
        return now + options.delay
    return moment(options.at, naive_at)


def _expires(value: Any) -> Any:
    return value if isinstance(value, datetime) else _positive(value)


def expiry(options: Options, created_at: float, naive_at: str) -> float:
    """Return from when on a call isn't started any more, as epoch seconds; 0 is never.

    Args:
        options: The options of the call.
        created_at: Epoch seconds of the call.
        naive_at: How a datetime without a zone is read.
    """
    if options.expires is None:
        return 0.0
    if isinstance(options.expires, datetime):
        return moment(options.expires, naive_at)
    return created_at + float(options.expires)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("it takes True or False")
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it takes a whole number")
    if value < 0:
        raise ValueError("it takes 0 or more")
    return int(value)


def _count_from_one(value: Any) -> int:
    if _count(value) < 1:
        raise ValueError("it takes 1 or more")
    return int(value)


def _seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes seconds (int, float) or a timedelta")
    if not 0 <= value < _MOST:
        raise ValueError("it takes 0 seconds or more")
    return float(value)


def _positive(value: Any) -> float:
    seconds = _seconds(value)
    if not seconds:
        raise ValueError("it takes more than 0 seconds; None for no limit")
    return seconds


def _limit(value: Any) -> float:
    return 0.0 if value is None else _positive(value)


def _durability(value: Any) -> str:
    if value not in ("os", "disk", "memory"):
        raise ValueError("it takes 'os', 'disk' or 'memory'")
    return str(value)


def _factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it takes a number: the factor by which the wait grows")
    if not 1 <= value < _MOST:
        raise ValueError("it takes 1 or more")
    return float(value)


def _spooler(value: Any) -> str:
    path = os.fsdecode(os.fspath(value) if value is not None else "")
    if path.startswith(network.SCHEME):
        network.parse(path)
        return path
    if "\0" in path:
        raise ValueError("it takes the path of a spooler")
    return os.path.realpath(path) if path else ""


def _mule(value: Any) -> int | str | None:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError("it takes the number of a mule or the name of a farm")
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("it takes the number of a mule or the name of a farm")
        return value
    if not 0 <= value <= 256:
        raise ValueError("mules are numbered from 1")
    return value or None


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it takes a text")
    if not value or len(value) > 255 or not value.isprintable():
        raise ValueError("it takes a printable text of 1 to 255 characters")
    return value


def _exceptions(value: Any) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    if isinstance(value, list):
        kinds = tuple(value)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError("it takes an exception class, or a tuple of them")
    return kinds


def _serializer(value: Any) -> str:
    if value not in ("pickle", "json"):
        raise ValueError("it takes 'pickle' or 'json'")
    return str(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "executor": _executor,
    "working_dir": _directory,
    "priority": _priority,
    "at": _at,
    "delay": lambda value: 0.0 if value is None else _seconds(value),
    "spooler_return": _flag,
    "retry_count": _optional(_count),
    "retry_timeout": lambda value: 0.0 if value is None else _seconds(value),
    "spooler": _spooler,
    "mule": _optional(_mule),
    "queue": _word,
    "name": _word,
    "retry_on": _exceptions,
    "no_retry_on": _exceptions,
    "retry_backoff": _optional(_factor),
    "retry_max_timeout": _optional(_seconds),
    "retry_jitter": lambda value: 0.0 if value is None else _seconds(value),
    "max_attempts": _optional(_count_from_one),
    "strict": _optional(_flag),
    "serializer": _optional(_serializer),
    "timeout": _limit,
    "soft_timeout": _limit,
    "expires": _optional(_expires),
    "max_crashes": _optional(_count_from_one),
    "durability": _optional(_durability),
    "store_result": _optional(_flag),
}
