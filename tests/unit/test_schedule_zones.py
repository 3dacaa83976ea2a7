"""Cron expressions over zones and changes of the clock, against a reading minute by minute.

The oracle shares nothing with the library: it walks over the minutes of a few days with
``zoneinfo`` and asks of each whether the wall clock shows what the expression says.

- An expression whose minute or hour begins with a star is due at each minute that the clock shows.
- Another one tells times of day: each is due once a day. One that the clock jumps over is due when
  it has jumped; one that it shows twice is due the first time.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwsgi_tasks.schedule import CronExpression

UTC = timezone.utc
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "America/St_Johns",
    "Pacific/Chatham",
    "UTC",
]
FIXED = [
    "30 2 * * *",
    "0 2 * * *",
    "0 3 * * *",
    "15,45 1,2,3 * * *",
    "0 0 * * *",
    "5 1-3 * * mon-fri",
    "30 2 * * sun",
    "59 23 31 3 *",
]
STARRED = [
    "*/10 * * * *",
    "* * * * *",
    "*/30 1-3 * * *",
    "0 * * * *",
    "*/7 2 * * *",
    "30 */2 * * *",
]
NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
BOUNDS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]


def values(field, place):
    """Return the numbers that a field of an expression means."""
    low, high = BOUNDS[place]
    found = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = low, high
        else:
            ends = [NAMES.index(e) if e in NAMES else int(e) for e in span.split("-")]
            first, last = ends[0], ends[-1] if len(ends) > 1 or not step else high
        found.update(range(first, last + 1, int(step or 1)))
    return found


def shows(expression):
    """Return a predicate of what the wall clock shows."""
    fields = expression.split()
    minutes, hours, days, months, weekdays = (values(f, n) for n, f in enumerate(fields))
    both = fields[2].startswith("*") or fields[4].startswith("*")

    def is_shown(local):
        on_day, number = local.day in days, local.isoweekday()
        on_weekday = number in weekdays or number % 7 in weekdays
        return (
            local.minute in minutes
            and local.hour in hours
            and local.month in months
            and (on_day and on_weekday if both else on_day or on_weekday)
        )

    return is_shown


def walked(expression, zone, first, last):
    """Return the due moments of an expression with a star: every minute that is shown."""
    is_shown, found = shows(expression), []
    for moment in range(first - first % 60 + 60, last, 60):
        if is_shown(datetime.fromtimestamp(moment, zone)):
            found.append(moment)
    return found


def told(expression, zone, first, last):
    """Return the due moments of times of day: each once, at or after its place on the clock."""
    is_shown, found = shows(expression), set()
    local = datetime.fromtimestamp(first - 2 * 86400, zone).replace(tzinfo=None, second=0)
    end = datetime.fromtimestamp(last + 2 * 86400, zone).replace(tzinfo=None)
    while local < end:
        if is_shown(local):
            found.add(on_the_clock(local, zone))
        local += timedelta(minutes=1)
    return sorted(moment for moment in found if first < moment < last)


def on_the_clock(local, zone):
    """Return the first moment at which the clock shows a time, or one later than it."""
    while True:
        moment = local.replace(tzinfo=zone, fold=0).timestamp()
        if datetime.fromtimestamp(moment, zone).replace(tzinfo=None) == local:
            return int(moment)
        local += timedelta(minutes=1)


def expected(expression, zone, first, last):
    minute, hour = expression.split()[:2]
    starred = minute.startswith("*") or hour.startswith("*")
    return (walked if starred or zone.key == "UTC" else told)(expression, zone, first, last)


def fired(expression, zone, first, last):
    found, moment = [], float(first)
    rule = CronExpression(expression, zone.key)
    while (moment := rule.next_after(moment)) is not None and moment < last:
        found.append(int(moment))
    return found


def changes(zone):
    """Return the moments of 2024 to 2027 at which the zone's clock is changed."""
    start, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) for y in (2024, 2028))
    offsets = [(m, datetime.fromtimestamp(m, zone).utcoffset()) for m in range(start, end, 1800)]
    return [later for (_, a), (later, b) in pairwise(offsets) if a != b]


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("expression", [*FIXED, *STARRED])
def test_given_a_zone_when_its_clock_changes_then_each_moment_is_due_once(name, expression):
    zone = ZoneInfo(name)
    for change in changes(zone)[:8] or [1_711_843_200]:
        first, last = change - 30 * 3600, change + 30 * 3600
        assert fired(expression, zone, first, last) == expected(expression, zone, first, last)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 1-3 * * *", "15,45 1,2,3 * * *"])
def test_given_any_moment_near_a_change_when_asked_then_the_next_one_is_that_of_the_oracle(
    name, expression
):
    zone, chance = ZoneInfo(name), random.Random(name + expression)
    for change in changes(zone)[:4] or [1_711_843_200]:
        due = expected(expression, zone, change - 50 * 3600, change + 50 * 3600)
        for _ in range(40):  # a restart may come at any second, in the doubled hour too
            moment = change + chance.randint(-10 * 3600, 10 * 3600)
            following = CronExpression(expression, name).next_after(moment)
            assert following == next(d for d in due if d > moment)


fields = st.tuples(
    st.sampled_from(["*", "*/15", "0", "30", "10-12", "5,35"]),
    st.sampled_from(["*", "*/2", "0", "2", "1-3", "23"]),
    st.sampled_from(["*", "1", "31", "15-20"]),
    st.sampled_from(["*", "3", "10,11", "1-6"]),
    st.sampled_from(["*", "sun", "mon-fri", "6", "7"]),
).map(" ".join)


@given(
    expression=fields,
    name=st.sampled_from(ZONES),
    first=st.integers(1_704_067_200, 1_830_000_000),
)
@settings(max_examples=120)
def test_given_any_expression_and_zone_when_walked_over_for_days_then_it_is_what_the_oracle_says(
    expression, name, first
):
    zone, last = ZoneInfo(name), first + 3 * 86400
    assert fired(expression, zone, first, last) == expected(expression, zone, first, last)


@pytest.mark.parametrize("name", ZONES)
def test_given_four_years_when_daily_then_it_is_due_on_each_day_once(name):
    zone = ZoneInfo(name)
    first, last = (int(datetime(y, 1, 1, tzinfo=zone).timestamp()) - 1 for y in (2024, 2028))
    found = fired("30 2 * * *", zone, first, last)
    days = [datetime.fromtimestamp(moment, zone).date() for moment in found]
    assert (len(days), len(set(days))) == (1461, 1461)
