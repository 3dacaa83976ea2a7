"""When a timer or a cron is next due: against what a slow and obvious reading gives."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwsgi_tasks import schedule
from uwsgi_tasks.errors import OptionValueError
from uwsgi_tasks.schedule import ALIASES, CronExpression, CronFields, Every

DAYS = 5
START = 1_700_000_000  # a Tuesday in November 2023
ZONES = {
    "no summer time": "UTC",
    "summer time": "CET-1CEST,M3.5.0,M10.5.0/3",
    "half an hour of it": "LHST-10:30LHDT-11,M10.1.0,M4.1.0",
    "five and three quarters": "NPT-5:45",
    "west": "EST5EDT,M3.2.0,M11.1.0",
}


@pytest.fixture
def zone(monkeypatch):
    """Set the process's own time zone."""

    def set_zone(rule):
        monkeypatch.setenv("TZ", rule)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


# a period


@pytest.mark.parametrize(
    ("seconds", "moment", "previous", "expected"),
    [
        (10, 100, None, 110),
        (10, 100, 95, 105),
        (10, 105, 95, 115),
        (10, 104.9, 95, 105),
        (10, 999, 95, 1005),
        (0.25, 100, 100, 100.25),
        (10, 90, 95, 105),
    ],
)
def test_given_a_period_when_asked_for_the_next_moment_then_it_is_in_phase(
    seconds, moment, previous, expected
):
    assert Every(seconds).next_after(moment, previous) == expected


@given(
    seconds=st.integers(1, 10**6),
    previous=st.integers(0, 2 * 10**9),
    late=st.integers(0, 10**8),
)
def test_given_any_late_moment_when_asked_then_missed_moments_are_skipped_and_the_phase_stays(
    seconds, previous, late
):
    due = Every(seconds).next_after(previous + late, previous)
    assert previous + late < due <= previous + late + seconds
    assert (due - previous) % seconds == 0


@given(
    seconds=st.floats(0.001, 1e6),
    previous=st.floats(1.6e9, 2e9),
    late=st.floats(0, 1e7),
)
def test_given_a_period_that_is_no_round_number_when_asked_then_the_next_moment_is_later(
    seconds, previous, late
):
    moment = previous + late
    assert moment < Every(seconds).next_after(moment, previous)


# uWSGI's five integers


def fits(field, value):
    return field == value if field >= 0 else value % -field == 0


def is_due(fields, moment):
    """Read the five integers as uWSGI's own loop does, once a minute."""
    now = time.localtime(moment)
    weekday = (now.tm_wday + 1) % 7
    on_time = fits(fields.minute, now.tm_min) and fits(fields.hour, now.tm_hour)
    on_month = fits(fields.month, now.tm_mon)
    on_day = fits(fields.day, now.tm_mday)
    on_weekday = fits(0 if fields.dayweek == 7 else fields.dayweek, weekday)
    if fields.day >= 0 and fields.dayweek >= 0:
        return on_time and on_month and (on_day or on_weekday)
    return on_time and on_month and on_day and on_weekday


def first_due(fields, moment, days=DAYS):
    due = (int(moment) // 60 + 1) * 60
    for _ in range(days * 24 * 60):
        if is_due(fields, due):
            return due
        due += 60
    return None


any_fields = st.builds(
    CronFields,
    st.just(-1) | st.integers(-59, 59).filter(bool) | st.just(0),
    st.just(-1) | st.integers(-23, 23).filter(bool) | st.just(0),
    st.just(-1) | st.integers(1, 31) | st.integers(-31, -2),
    st.just(-1) | st.integers(1, 12) | st.integers(-12, -2),
    st.just(-1) | st.integers(0, 7) | st.integers(-7, -2),
)
changes = [datetime(2024, 3, 31).timestamp(), datetime(2024, 10, 27).timestamp()]
near_changes = [change + offset for change in changes for offset in (-90000, -3600, 0, 9000)]


def agrees(fields, moment):
    """Compare with the minute by minute reading, as far as that looks."""
    found, expected = fields.next_after(moment), first_due(fields, moment)
    if expected is not None:
        return found == expected
    return found is None or found > moment + DAYS * 24 * 3600 - 120


@pytest.mark.parametrize("rule", ZONES.values(), ids=ZONES.keys())
def test_given_any_fields_when_read_minute_by_minute_then_the_next_moment_is_that(zone, rule):
    zone(rule)

    @given(fields=any_fields, moment=st.integers(START, START + 366 * 86400))
    @settings(max_examples=40)
    def check(fields, moment):
        assert agrees(fields, moment)

    check()


@pytest.mark.parametrize("rule", ZONES.values(), ids=ZONES.keys())
@pytest.mark.parametrize(
    "fields",
    [
        CronFields(30, 2),
        CronFields(0, 2),
        CronFields(0, 3),
        CronFields(59, 1),
        CronFields(-15, -2),
        CronFields(0, 0, 1),
        CronFields(0, -1, -1, -1, 0),
    ],
    ids=str,
)
def test_given_a_change_of_the_clock_when_read_minute_by_minute_then_the_next_moment_is_that(
    zone, rule, fields
):
    zone(rule)
    assert all(agrees(fields, moment) for moment in near_changes)


def utc(year, month, day, hour=0, minute=0):
    return datetime(year, month, day, hour, minute, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("fields", "after", "expected"),
    [
        (CronFields(), utc(2024, 1, 1), utc(2024, 1, 1, 0, 1)),
        (CronFields(minute=-5), utc(2024, 1, 1, 0, 1), utc(2024, 1, 1, 0, 5)),
        (CronFields(59, 23), utc(2024, 1, 1), utc(2024, 1, 1, 23, 59)),
        (CronFields(0, 0, 31), utc(2024, 1, 31), utc(2024, 3, 31)),
        (CronFields(0, 0, 29, 2), utc(2024, 3, 1), utc(2028, 2, 29)),
        (CronFields(0, 0, 30, 2), utc(2024, 1, 1), None),
        (CronFields(0, 0, dayweek=7), utc(2024, 1, 1), utc(2024, 1, 7)),
        (CronFields(0, 0, dayweek=0), utc(2024, 1, 1), utc(2024, 1, 7)),
        (CronFields(0, 0, day=13, dayweek=5), utc(2024, 9, 1), utc(2024, 9, 6)),
        (CronFields(0, 0, day=13, dayweek=5), utc(2024, 9, 6), utc(2024, 9, 13)),
        (CronFields(0, 0, day=-13, dayweek=5), utc(2024, 9, 1), utc(2024, 9, 13)),
        (CronFields(hour=5), utc(2024, 1, 1, 5, 0), utc(2024, 1, 1, 5, 1)),
        (CronFields(0, 0, 1, 1), utc(2024, 1, 1), utc(2025, 1, 1)),
    ],
    ids=str,
)
def test_given_fields_when_asked_for_the_next_moment_then_it_is_this(zone, fields, after, expected):
    zone("UTC")
    assert fields.next_after(after) == expected


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"minute": 60}, "minute=60 is outside of 0..59"),
        ({"minute": -60}, "minute=-60"),
        ({"hour": 24}, "hour=24 is outside of 0..23"),
        ({"day": 0}, "day=0 is outside of 1..31"),
        ({"day": 32}, "day=32"),
        ({"month": 13}, "month=13 is outside of 1..12"),
        ({"month": 0}, "month=0"),
        ({"dayweek": 8}, "dayweek=8 is outside of 0..7"),
        ({"minute": "5"}, "'5' is not an integer"),
        ({"minute": 5.0}, "5.0 is not an integer"),
        ({"minute": True}, "True is not an integer"),
        ({"hour": None}, "None is not an integer"),
    ],
    ids=str,
)
def test_given_a_field_that_cannot_be_meant_when_checked_then_the_error_names_it(fields, told):
    with pytest.raises(OptionValueError, match=told):
        schedule.cron_fields(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"minute": 0, "hour": 0, "day": 1, "month": 1, "dayweek": 0},
        {"minute": 59, "hour": 23, "day": 31, "month": 12, "dayweek": 7},
        {"minute": -59, "hour": -23, "day": -31, "month": -12, "dayweek": -7},
    ],
)
def test_given_a_field_at_the_edge_when_checked_then_it_is_taken(fields):
    assert schedule.cron_fields(**fields)._asdict() == fields


# cron expressions


@pytest.mark.parametrize(
    ("expression", "tz", "after", "expected"),
    [
        ("0 9 * * mon-fri", "UTC", utc(2024, 1, 5, 9), utc(2024, 1, 8, 9)),
        ("0 9 * * mon-fri", "Europe/Rome", utc(2024, 1, 5, 7), utc(2024, 1, 5, 8)),
        ("0 9 * * mon-fri", "Europe/Rome", utc(2024, 7, 5, 6), utc(2024, 7, 5, 7)),
        ("@hourly", "UTC", utc(2024, 1, 1, 0, 1), utc(2024, 1, 1, 1)),
        ("@daily", "UTC", utc(2024, 1, 1, 0, 1), utc(2024, 1, 2)),
        ("@midnight", "UTC", utc(2024, 1, 1, 0, 1), utc(2024, 1, 2)),
        ("@weekly", "UTC", utc(2024, 1, 1), utc(2024, 1, 7)),
        ("@monthly", "UTC", utc(2024, 1, 1), utc(2024, 2, 1)),
        ("@yearly", "UTC", utc(2024, 1, 1), utc(2025, 1, 1)),
        ("@annually", "UTC", utc(2024, 1, 1), utc(2025, 1, 1)),
        ("*/20 * * * *", "UTC", utc(2024, 1, 1, 0, 20), utc(2024, 1, 1, 0, 40)),
    ],
)
def test_given_an_expression_when_asked_for_the_next_moment_then_it_is_this(
    expression, tz, after, expected
):
    assert CronExpression(expression, tz).checked().next_after(after) == expected


def days_fired(rule, first, last):
    found, moment = [], first
    while (moment := rule.next_after(moment)) is not None and moment < last:
        found.append(moment)
    return found


@pytest.mark.parametrize("day", [utc(2024, 3, 29), utc(2024, 10, 25)], ids=["spring", "autumn"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "0 3 * * *", "@daily"])
def test_given_a_change_of_the_clock_when_daily_then_it_is_due_once_a_day(expression, day):
    found = days_fired(CronExpression(expression, "Europe/Rome"), day, day + 5 * 86400)
    assert len(found) == 5


@pytest.mark.parametrize("expression", ["30 2 * * *", "@daily"])
@pytest.mark.parametrize("day", [utc(2024, 3, 29), utc(2024, 10, 25)], ids=["spring", "autumn"])
def test_given_the_servers_own_zone_when_the_clock_changes_then_it_is_due_once_a_day(
    zone, expression, day
):
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    assert len(days_fired(CronExpression(expression), day, day + 5 * 86400)) == 5


@pytest.mark.parametrize("tz", ["Europe/Rome", None])
@pytest.mark.parametrize("day", [utc(2024, 3, 30, 12), utc(2024, 10, 26, 12)], ids=str)
def test_given_a_change_of_the_clock_when_every_ten_minutes_then_it_never_pauses(zone, tz, day):
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    found = days_fired(CronExpression("*/10 * * * *", tz), day, day + 86400)
    assert {b - a for a, b in pairwise(found)} == {600}


@pytest.mark.parametrize("tz", ["Europe/Rome", "America/New_York", "UTC", None])
@given(moment=st.floats(START, START + 2 * 366 * 86400))
def test_given_any_moment_when_asked_then_the_next_one_is_later_than_it(tz, moment):
    due = CronExpression("*/7 1-3 * * *", tz).next_after(moment)
    assert due is not None
    assert due > moment


@pytest.mark.parametrize("alias", ALIASES)
def test_given_an_alias_when_asked_then_it_means_its_expression(alias):
    moment = float(START)
    meant = CronExpression(ALIASES[alias], "UTC").next_after(moment)
    assert CronExpression(alias, "UTC").next_after(moment) == meant


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "61 * * * *", "* 25 * * *", "@never", "a b c d e", "0 0 31 2 *x"]
)
def test_given_what_is_no_expression_when_checked_then_the_error_shows_it_and_an_example(
    expression,
):
    with pytest.raises(OptionValueError, match=r"no cron expression .*'0 9 \* \* mon-fri'"):
        CronExpression(expression).checked()


@pytest.mark.parametrize("tz", ["Europe/Atlantis", "../etc/passwd", "", "/etc/localtime"])
def test_given_a_zone_that_is_not_known_when_checked_then_the_error_names_it(tz):
    with pytest.raises(OptionValueError, match="no known time zone"):
        CronExpression("@daily", tz).checked()


def test_given_a_day_that_never_comes_when_checked_then_it_is_refused_or_never_due():
    try:
        found = CronExpression("0 0 31 2 *", "UTC").checked().next_after(float(START))
    except OptionValueError:
        found = None
    assert found is None


# written down


@pytest.mark.parametrize(
    "rule",
    [
        Every(2.5),
        CronFields(1, -2, 3, -4, 5),
        CronExpression("@hourly"),
        CronExpression("0 9 * * mon-fri", "Europe/Rome"),
    ],
    ids=str,
)
def test_given_a_rule_when_written_down_and_read_then_it_is_the_same(rule):
    read = schedule.load_rule(json.loads(json.dumps(rule.dump())))
    assert (type(read), read) == (type(rule), rule)
