"""The rules of time: when a timer or a cron is next due. No clock is read here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple, Protocol

from .errors import OptionValueError

_MINUTE = 60
_HORIZON = 5 * 366 * 24 * 3600  # a leap day is at most this far away, but for 2100

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@annually": "0 0 1 1 *",
    "@yearly": "0 0 1 1 *",
}


class Rule(Protocol):
    """When something is due; it can be written down and read again."""

    def next_after(self, moment: float, previous: float | None) -> float | None:
        """Return the next due moment (epoch seconds) after ``moment``, ``None`` for never.

        Args:
            moment: Epoch seconds; the answer is later than this.
            previous: The due moment before, so that a period keeps its phase.
        """
        ...

    def dump(self) -> list[Any]:
        """Return the rule as JSON values that ``load_rule`` understands."""
        ...


class Every(NamedTuple):
    """A period in seconds, in phase with its first moment; missed moments are skipped."""

    seconds: float

    def next_after(self, moment: float, previous: float | None) -> float:
        """See ``Rule``."""
        if previous is None:
            return moment + self.seconds
        behind = max(0.0, moment - previous)
        due = previous + (behind // self.seconds + 1) * self.seconds
        return due if due > moment else due + self.seconds  # rounding

    def dump(self) -> list[Any]:
        """See ``Rule``."""
        return ["every", self.seconds]


class CronFields(NamedTuple):
    """uWSGI's five integers: -1 is any, ``-n`` every value that n divides, server local time.

    Source: ``uwsgi_cron_task_needs_execution`` in uWSGI's ``core/cron.c``; day and weekday are
    alternatives only when both are 0 or more, and weekday 7 is Sunday as 0 is.
    """

    minute: int = -1
    hour: int = -1
    day: int = -1
    month: int = -1
    dayweek: int = -1

    def next_after(self, moment: float, previous: float | None = None) -> float | None:
        """See ``Rule``; the phase of a cron is the clock's, ``previous`` isn't looked at."""
        due = (int(moment) // _MINUTE + 1) * _MINUTE
        end = due + _HORIZON
        while due < end:
            local = time.localtime(due)
            if not self._day_matches(local) or not _fits(self.hour, local.tm_hour):
                due += (60 - local.tm_min) * _MINUTE
            elif not _fits(self.minute, local.tm_min):
                due += _MINUTE
            else:
                return float(due)
        return None

    def _day_matches(self, local: time.struct_time) -> bool:
        if not _fits(self.month, local.tm_mon):
            return False
        sunday_based = (local.tm_wday + 1) % 7
        weekday = _fits(self.dayweek, sunday_based) or (self.dayweek == 7 and sunday_based == 0)
        day = _fits(self.day, local.tm_mday)
        if self.day >= 0 and self.dayweek >= 0:
            return day or weekday
        return day and weekday

    def dump(self) -> list[Any]:
        """See ``Rule``."""
        return ["fields", *self]


def _fits(field: int, value: int) -> bool:
    if field >= 0:
        return field == value
    return field == -1 or value % -field == 0


_BOUNDS = {"minute": 59, "hour": 23, "day": 31, "month": 12, "dayweek": 7}


def cron_fields(**fields: int) -> CronFields:
    """Return checked ``CronFields``.

    Raises:
        OptionValueError: A field isn't an integer or lies outside of its range.
    """
    for name, value in fields.items():
        if type(value) is not int:
            raise OptionValueError(f"cron: {name}={value!r} is not an integer")
        low = 1 if name in ("day", "month") else 0
        if not (-_BOUNDS[name] <= value <= -1 or low <= value <= _BOUNDS[name]):
            raise OptionValueError(
                f"cron: {name}={value} is outside of {low}..{_BOUNDS[name]}"
                f" (or -1 for any, -n for every value that n divides)"
            )
    return CronFields(**fields)


class CronExpression(NamedTuple):
    """A cron expression of five fields in a time zone (``None``: the server's own)."""

    expression: str
    tz: str | None = None

    def next_after(self, moment: float, previous: float | None = None) -> float | None:
        """See ``Rule``."""
        return next((due.timestamp() for due in self._moments(moment)), None)

    def _moments(self, moment: float) -> Iterator[datetime]:
        from cronsim import CronSim, CronSimError

        start = datetime.fromtimestamp(moment, self._zone())
        try:
            return CronSim(ALIASES.get(self.expression, self.expression), start)
        except CronSimError as error:
            raise OptionValueError(
                f"cron: {self.expression!r} is no cron expression ({error}); it takes five fields,"
                f" like '0 9 * * mon-fri', or one of {', '.join(ALIASES)}"
            ) from None

    def _zone(self) -> Any:
        if self.tz is None:
            return _Local()
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            return ZoneInfo(self.tz)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise OptionValueError(f"cron: {self.tz!r} is no known time zone") from None

    def checked(self) -> CronExpression:
        """Return itself, or raise ``OptionValueError`` when it can't be understood."""
        self._moments(0.0)
        return self

    def dump(self) -> list[Any]:
        """See ``Rule``."""
        return ["cron", self.expression, self.tz]


class _Local(tzinfo):
    """The server's local time, by the rules that ``time.localtime`` follows."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """See ``tzinfo``."""
        if moment is None:
            return None
        return moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        """See ``tzinfo``; the offset says everything."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """See ``tzinfo``."""
        return "local"

    def fromutc(self, moment: datetime) -> datetime:
        """See ``tzinfo``."""
        seconds = moment.replace(tzinfo=timezone.utc).timestamp()
        return datetime.fromtimestamp(seconds).replace(tzinfo=self)


def load_rule(values: list[Any]) -> Rule:
    """Return the rule that ``dump`` wrote."""
    kind, *rest = values
    kinds: dict[str, Any] = {"every": Every, "fields": CronFields, "cron": CronExpression}
    return kinds[kind](*rest)  # type: ignore[no-any-return]
