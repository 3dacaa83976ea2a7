"""The rules of time: when a timer or a cron is next due. No clock is read here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple, Protocol

from .errors import OptionValueError

MISSED_AFTER_S = 60.0
"""From this age on a moment was missed when the timekeeper sees it."""
MOST_MADE_UP = 1000
"""As many missed moments are made up for at most, where each is to be."""
_MINUTE = 60
_CHANGE_S = 3 * 3600.0
"""No clock is changed by more than this, but where a country crosses the date line."""
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
        minute, hour, *_ = self._text().split()
        if minute.startswith("*") or hour.startswith("*"):
            return self._next_shown(moment)
        # in the second pass of an hour a time of day is told by its first one, which is over
        moments = (due.timestamp() for due in self._read(self._local(moment)))
        return next((due for due in moments if due > moment), None)

    def _next_shown(self, moment: float) -> float | None:
        """Return the next moment at which the clock shows what the expression says.

        The clock is read as if it were never changed, then minute by minute where it is: within
        hours of now, or of what was found. (Read through a change, cronsim 2.7 passes over the half
        hours of zones like Australia/Lord_Howe.)
        """
        while True:
            now = self._local(moment)
            offset = now.utcoffset() or timedelta()
            naive = next(self._read(now.replace(tzinfo=None)), None)
            if naive is None:
                return None
            found = (naive - offset).replace(tzinfo=timezone.utc).timestamp()
            near = (moment + _CHANGE_S, found - _CHANGE_S, found)
            if all(self._local(place).utcoffset() == offset for place in near):
                return found
            end = found + _CHANGE_S
            for first, last in ((moment, min(moment + _CHANGE_S, end)), (found - _CHANGE_S, end)):
                shown = self._first_shown(max(first, moment), last)
                if shown is not None:
                    return shown
            moment = end

    def _first_shown(self, moment: float, last: float) -> float | None:
        due = (int(moment) // _MINUTE + 1) * _MINUTE
        while due <= last:
            local = self._local(due).replace(tzinfo=None)
            if next(self._read(local - timedelta(minutes=1)), None) == local:
                return float(due)
            due += _MINUTE
        return None

    def _text(self) -> str:
        return ALIASES.get(self.expression, self.expression)

    def _local(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, _Local() if self.tz is None else zone(self.tz))

    def _read(self, start: datetime) -> Iterator[datetime]:
        """Give the moments after one, by the clock of that one."""
        from cronsim import CronSim, CronSimError

        try:
            return CronSim(self._text(), start)
        except CronSimError as error:
            raise OptionValueError(
                f"cron: {self.expression!r} is no cron expression ({error}); it takes five fields,"
                f" like '0 9 * * mon-fri', or one of {', '.join(ALIASES)}"
            ) from None

    def checked(self) -> CronExpression:
        """Return itself, or raise ``OptionValueError`` when it can't be understood."""
        self._read(self._local(0.0))
        if len(self._text().split()) != 5:
            raise OptionValueError(
                f"cron: {self.expression!r} is no cron expression (it has a field of seconds); it"
                f" takes five fields, like '0 9 * * mon-fri'; use a timer for seconds"
            )
        return self

    def dump(self) -> list[Any]:
        """See ``Rule``."""
        return ["cron", self.expression, self.tz]


def zone(name: str) -> tzinfo:
    """Return the time zone of a name.

    Raises:
        OptionValueError: None of that name is known here.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise OptionValueError(f"cron: {name!r} is no known time zone") from None


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


class Due(NamedTuple):
    """What follows from moments that have come.

    Attributes:
        fires: How often it fires now.
        missed: How many moments are passed over.
        next_moment: Epoch seconds of the next moment, ``None`` for never.
    """

    fires: int
    missed: int
    next_moment: float | None


def judge(
    rule: Rule, moment: float, next_at: float, now: float, missed: str, end: float = 0.0
) -> Due:
    """Tell what follows at ``now`` from a schedule that is due.

    Args:
        rule: When it is due.
        moment: Epoch seconds of its first moment that hasn't fired.
        next_at: Epoch seconds at which that was to fire, jitter included.
        now: Epoch seconds; not before ``next_at``.
        missed: ``"skip"``, ``"once"`` or ``"all"``.
        end: Epoch seconds after which it isn't due, 0 for none.

    Example:
        >>> judge(Every(10), 100.0, 100.0, 195.0, "skip")
        Due(fires=1, missed=9, next_moment=200.0)
        >>> judge(Every(100), 100.0, 100.0, 195.0, "skip")
        Due(fires=0, missed=1, next_moment=200.0)
    """
    last = min(now, end) if end else now
    count = _count(rule, moment, last)
    following = rule.next_after(now, moment)
    if missed == "all":
        fires = min(count, MOST_MADE_UP)
    else:
        fires = int(missed == "once" or _is_one_fresh(rule, moment, next_at, now, last))
    if end and following is not None and following > end:
        following = None
    return Due(fires, count - fires, following)


def _is_one_fresh(rule: Rule, moment: float, next_at: float, now: float, last: float) -> bool:
    if now - next_at <= MISSED_AFTER_S:
        return True
    fresh = rule.next_after(now - MISSED_AFTER_S, moment)
    return fresh is not None and fresh <= last


def _count(rule: Rule, moment: float, last: float) -> int:
    """Return how many moments there are up to ``last``; of a cron, some more than enough at most.

    The first one counts in any case.
    """
    if isinstance(rule, Every):
        return 1 + max(0, int((last - moment) // rule.seconds))
    count, following = 1, moment
    while last - following >= _MINUTE and count <= 10 * MOST_MADE_UP:
        found = rule.next_after(following, following)
        if found is None or found > last:
            break
        count, following = count + 1, found
    return count


def first_moment(rule: Rule, now: float, start: float = 0.0, end: float = 0.0) -> float | None:
    """Return the first moment of a schedule that begins now, ``None`` for never.

    Args:
        rule: When it is due.
        now: Epoch seconds.
        start: Epoch seconds of the first moment of a period, before which a cron isn't due.
        end: Epoch seconds after which it isn't due, 0 for none.
    """
    if not isinstance(rule, Every):
        first = rule.next_after(max(now, start - 0.001), None)
    elif start > now:
        first = start
    else:
        first = rule.next_after(now, start or None)
    return None if first is None or (end and first > end) else first


def after_step_back(rule: Rule, moment: float, now: float) -> float:
    """Return the next moment of a period whose clock was set back: in phase, within one period.

    A cron waits for its moment: what fired doesn't fire again.
    """
    if not isinstance(rule, Every) or moment <= now + rule.seconds:
        return moment
    return moment - (moment - now) // rule.seconds * rule.seconds


def describe(rule: Rule) -> str:
    """Return a rule as a reader understands it.

    Example:
        >>> describe(Every(30.0)), describe(CronFields(0, 5))
        ('every 30 s', 'minute=0 hour=5')
    """
    if isinstance(rule, Every):
        return f"every {rule.seconds:g} s"
    if isinstance(rule, CronExpression):
        return f"{rule.expression} ({rule.tz})" if rule.tz else rule.expression
    assert isinstance(rule, CronFields)
    named = [f"{name}={value}" for name, value in rule._asdict().items() if value != -1]
    return " ".join(named) or "every minute"
