"""Options: what is refused, in which words, and what is taken as what."""

from __future__ import annotations

import decimal
import math
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from uwsgi_tasks import options
from uwsgi_tasks.errors import OptionError, OptionValueError
from uwsgi_tasks.model import Placement, TaskExecutor
from uwsgi_tasks.options import CALLER_DIR, NOT_PER_CALL, Options
from uwsgi_tasks.retry import RetryPolicy

NAN, INF = math.nan, math.inf


class Unshowable:
    def __repr__(self):
        raise ZeroDivisionError


def changed(call=False, **values):
    return options.change(Options(), values, "shop.send", call=call)


WRONG_TYPES = [
    ("executor", 2.5, "TaskExecutor"),
    ("executor", True, "TaskExecutor"),
    ("executor", None, "TaskExecutor"),
    ("executor", [], "TaskExecutor"),
    ("working_dir", 5, "path|str"),
    ("working_dir", b"/srv", "path as text"),
    ("priority", [], "number"),
    ("priority", True, "number"),
    ("priority", {}, "number"),
    ("at", "tomorrow", "UNIX timestamp, a datetime, a timedelta"),
    ("at", True, "UNIX timestamp"),
    ("at", [], "UNIX timestamp"),
    ("spooler_return", 1, "True or False"),
    ("spooler_return", "yes", "True or False"),
    ("spooler_return", None, "True or False"),
    ("retry_count", "3", "whole number"),
    ("retry_count", 3.0, "whole number"),
    ("retry_count", True, "whole number"),
    ("retry_timeout", "10", "seconds"),
    ("retry_timeout", True, "seconds"),
    ("spooler", 7, "path|str"),
    ("mule", 1.0, "number of a mule"),
    ("mule", True, "number of a mule"),
    ("mule", [1], "number of a mule"),
    ("queue", None, "text"),
    ("queue", 5, "text"),
    ("name", None, "text"),
    ("name", 5, "text"),
    ("retry_on", "KeyError", "exception class"),
    ("retry_on", (KeyError, 5), "exception class"),
    ("retry_on", int, "exception class"),
    ("retry_on", KeyError("x"), "exception class"),
    ("no_retry_on", None, "exception class"),
    ("retry_backoff", "2", "factor"),
    ("retry_backoff", True, "factor"),
    ("retry_max_timeout", "60", "seconds"),
    ("retry_jitter", "1", "seconds"),
    ("max_attempts", "5", "whole number"),
    ("max_attempts", 5.0, "whole number"),
    ("strict", "yes", "True or False"),
    ("strict", 1, "True or False"),
    ("timeout", "10", "seconds"),
    ("timeout", True, "seconds"),
    ("timeout", [], "seconds"),
    ("soft_timeout", "10", "seconds"),
    ("soft_timeout", False, "seconds"),
    ("expires", "tomorrow", "seconds"),
    ("expires", True, "seconds"),
    ("expires", [], "seconds"),
    ("max_crashes", "3", "whole number"),
    ("max_crashes", 3.0, "whole number"),
    ("max_crashes", True, "whole number"),
]
WRONG_VALUES = [
    ("executor", 0, "AUTO, SPOOLER, MULE or RUNTIME"),
    ("executor", 99, "AUTO, SPOOLER, MULE or RUNTIME"),
    ("executor", "celery", "AUTO, SPOOLER, MULE or RUNTIME"),
    ("working_dir", "relative/path", "absolute path"),
    ("working_dir", "", "absolute path"),
    ("working_dir", Path("here"), "absolute path"),
    ("priority", "high", "number"),
    ("priority", "../../etc", "number"),
    ("priority", "5/../x", "number"),
    ("priority", NAN, "number"),
    ("priority", "nan", "number"),
    ("priority", INF, "number"),
    ("priority", "", "number"),
    ("priority", 10**400, "number"),
    ("at", NAN, "finite"),
    ("at", INF, "finite"),
    ("at", -INF, "finite"),
    ("at", 10**400, "finite"),
    ("retry_count", -1, "0 or more"),
    ("retry_timeout", -1, "0 seconds or more"),
    ("retry_timeout", NAN, "0 seconds or more"),
    ("retry_timeout", INF, "0 seconds or more"),
    ("retry_timeout", timedelta(seconds=-1), "0 seconds or more"),
    ("retry_timeout", 10**400, "seconds"),
    ("spooler", "/srv/\0spool", "path of a spooler"),
    ("spooler", "uwsgi://", "uwsgi://host:port"),
    ("spooler", "uwsgi://host", "uwsgi://host:port"),
    ("spooler", "uwsgi://host:0", "uwsgi://host:port"),
    ("spooler", "uwsgi://host:99999", "uwsgi://host:port"),
    ("spooler", "uwsgi://host:port", "uwsgi://host:port"),
    ("spooler", "uwsgi://a:1:2", "uwsgi://host:port"),
    ("mule", -1, "numbered from 1"),
    ("mule", 257, "numbered from 1"),
    ("mule", "", "name of a farm"),
    ("mule", "far\0m", "name of a farm"),
    ("queue", "", "1 to 255"),
    ("queue", "x" * 256, "1 to 255"),
    ("queue", "a\nb", "printable"),
    ("name", "", "1 to 255"),
    ("name", "a\0b", "printable"),
    ("retry_backoff", 0.5, "1 or more"),
    ("retry_backoff", NAN, "1 or more"),
    ("retry_backoff", INF, "1 or more"),
    ("retry_backoff", 10**400, "1 or more|factor"),
    ("retry_max_timeout", -5, "0 seconds or more"),
    ("retry_jitter", -0.1, "0 seconds or more"),
    ("max_attempts", 0, "1 or more"),
    ("serializer", "yaml", "'pickle' or 'json'"),
    ("serializer", 5, "'pickle' or 'json'"),
    ("timeout", 0, "more than 0 seconds; None for no limit"),
    ("timeout", -1, "0 seconds or more"),
    ("timeout", NAN, "0 seconds or more"),
    ("timeout", INF, "0 seconds or more"),
    ("timeout", timedelta(0), "more than 0 seconds"),
    ("soft_timeout", 0.0, "more than 0 seconds; None for no limit"),
    ("soft_timeout", -0.5, "0 seconds or more"),
    ("soft_timeout", timedelta(seconds=-1), "0 seconds or more"),
    ("expires", 0, "more than 0 seconds"),
    ("expires", -5, "0 seconds or more"),
    ("expires", NAN, "0 seconds or more"),
    ("expires", timedelta(0), "more than 0 seconds"),
    ("max_crashes", 0, "1 or more"),
    ("max_crashes", -1, "0 or more"),
    ("durability", "tape", "'os', 'disk' or 'memory'"),
    ("durability", 5, "'os', 'disk' or 'memory'"),
    ("durability", [], "'os', 'disk' or 'memory'"),
    ("durability", "", "'os', 'disk' or 'memory'"),
]


@pytest.mark.parametrize(
    ("kind", "option", "value", "cure"),
    [(OptionError, *row) for row in WRONG_TYPES]
    + [(OptionValueError, *row) for row in WRONG_VALUES],
    ids=lambda part: part.__name__ if isinstance(part, type) else repr(part)[:30],
)
def test_given_a_wrong_value_when_checked_then_task_option_and_cure_are_named(
    kind, option, value, cure
):
    with pytest.raises(kind, match=rf"(?s)Task shop\.send: {option}=.*({cure})"):
        changed(**{option: value})


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("retrycount", "retry_count"),
        ("retry_counts", "retry_count"),
        ("prio", "priority"),
        ("workingdir", "working_dir"),
        ("executer", "executor"),
        ("mules", "mule"),
        ("serialiser", "serializer"),
        ("time_out", "timeout"),
        ("expire", "expires"),
        ("max_crash", "max_crashes"),
        ("durable", "durability"),
    ],
)
def test_given_an_unknown_option_when_checked_then_it_asks_whether_the_near_one_was_meant(
    option, meant
):
    message = rf"Task shop\.send: there is no option '{option}', did you mean '{meant}'\?"
    with pytest.raises(OptionError, match=message):
        changed(**{option: 1})


def test_given_an_option_like_no_other_when_checked_then_all_options_are_listed():
    with pytest.raises(OptionError, match=r"no option 'zzz'\. Options: executor, working_dir"):
        changed(zzz=1)


@pytest.mark.parametrize("option", sorted(NOT_PER_CALL))
def test_given_an_option_of_the_decorator_when_said_at_a_call_then_it_is_refused(option):
    with pytest.raises(OptionError, match=f"{option} belongs to the decorator"):
        changed(call=True, **{option: "x"})


def test_given_a_value_that_cannot_be_shown_when_refused_then_its_type_is_shown():
    with pytest.raises(OptionError, match="retry_count=<Unshowable>"):
        changed(retry_count=Unshowable())


def test_given_a_long_value_when_refused_then_the_error_is_short():
    with pytest.raises(OptionError) as caught:
        changed(retry_count="x" * 10_000)
    assert len(str(caught.value)) < 300


def test_given_a_wrong_value_among_right_ones_when_refused_then_nothing_changed():
    before = Options(retry_count=5)
    with pytest.raises(OptionValueError):
        options.change(before, {"queue": "mail", "retry_count": -1}, "t", call=False)
    assert before == Options(retry_count=5)


# what is taken


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("executor", TaskExecutor.MULE, 3),
        ("executor", 2, 2),
        ("executor", "spooler", TaskExecutor.SPOOLER),
        ("executor", "Runtime", TaskExecutor.RUNTIME),
        ("working_dir", None, None),
        ("working_dir", "/srv", "/srv"),
        ("working_dir", Path("/srv"), "/srv"),
        ("working_dir", CALLER_DIR, CALLER_DIR),
        ("priority", 5, 5.0),
        ("priority", "5", 5.0),
        ("priority", b"5", 5.0),
        ("priority", "-2.5", -2.5),
        ("priority", 0, 0.0),
        ("priority", None, None),
        ("at", None, None),
        ("at", 0, 0),
        ("at", 1.5, 1.5),
        ("at", timedelta(hours=1), timedelta(hours=1)),
        ("spooler_return", True, True),
        ("retry_count", None, None),
        ("retry_count", 0, 0),
        ("retry_count", 3, 3),
        ("retry_timeout", None, 0.0),
        ("retry_timeout", 2, 2.0),
        ("retry_timeout", timedelta(days=40), 40 * 86400.0),
        ("spooler", None, ""),
        ("spooler", "", ""),
        ("spooler", "/srv/../spool", "/spool"),
        ("spooler", Path("/spool"), "/spool"),
        ("spooler", b"/spool", "/spool"),
        ("spooler", "uwsgi://127.0.0.1:3031", "uwsgi://127.0.0.1:3031"),
        ("spooler", "uwsgi:///run/app.sock", "uwsgi:///run/app.sock"),
        ("spooler", "uwsgi://[::1]:3031", "uwsgi://[::1]:3031"),
        ("mule", None, None),
        ("mule", 0, None),
        ("mule", 2, 2),
        ("mule", "farm", "farm"),
        ("queue", "mail", "mail"),
        ("retry_on", KeyError, (KeyError,)),
        ("retry_on", [KeyError, OSError], (KeyError, OSError)),
        ("retry_on", (), ()),
        ("no_retry_on", (KeyError,), (KeyError,)),
        ("retry_backoff", None, None),
        ("retry_backoff", 2, 2.0),
        ("retry_max_timeout", timedelta(minutes=1), 60.0),
        ("retry_jitter", None, 0.0),
        ("max_attempts", None, None),
        ("max_attempts", 1, 1),
        ("strict", None, None),
        ("strict", True, True),
        ("serializer", None, None),
        ("serializer", "json", "json"),
        ("timeout", None, 0.0),
        ("timeout", 30, 30.0),
        ("timeout", timedelta(minutes=1), 60.0),
        ("soft_timeout", None, 0.0),
        ("soft_timeout", 0.5, 0.5),
        ("expires", None, None),
        ("expires", 60, 60.0),
        ("expires", timedelta(hours=1), 3600.0),
        ("expires", datetime(2030, 1, 1), datetime(2030, 1, 1)),
        ("max_crashes", None, None),
        ("max_crashes", 1, 1),
        ("durability", None, None),
        ("durability", "os", "os"),
        ("durability", "disk", "disk"),
        ("durability", "memory", "memory"),
    ],
    ids=repr,
)
def test_given_a_value_that_can_be_meant_when_checked_then_it_is_taken_as_this(
    option, value, expected
):
    found = getattr(changed(**{option: value}), option)
    assert (type(found), found) == (type(expected), expected)


def test_given_no_values_when_changed_then_they_are_the_options_before():
    before = Options(priority=3.0)
    assert options.change(before, {}, "t", call=True) == before


def test_given_options_when_asked_for_the_policy_then_it_has_their_retries():
    found = changed(
        retry_count=3, retry_timeout=2, retry_backoff=2, retry_max_timeout=9, retry_jitter=1
    )
    assert found.policy() == RetryPolicy(3, 2.0, 2.0, 9.0, 1.0)


def test_given_options_when_asked_for_the_placement_then_it_has_where_to_run():
    found = changed(executor="mule", mule=2, strict=True, durability="memory")
    assert found.placement() == Placement(TaskExecutor.MULE, "", 2, True, "memory")


# moments

ROME = timezone(timedelta(hours=2))
NOON = datetime(2024, 7, 1, 12)


@pytest.fixture
def zone(monkeypatch):
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("at", "naive_at", "expected"),
    [
        (None, "local", 0.0),
        (0, "local", 0.0),
        (0.0, "utc", 0.0),
        (timedelta(0), "local", 0.0),
        (timedelta(seconds=-5), "local", 0.0),
        (-5, "local", 0.0),
        (1_700_000_000, "local", 1_700_000_000.0),
        (1_700_000_000.25, "utc", 1_700_000_000.25),
        (NOON.replace(tzinfo=ROME), "local", 1719828000.0),
        (NOON.replace(tzinfo=ROME), "utc", 1719828000.0),
        (NOON.replace(tzinfo=timezone.utc), "local", 1719835200.0),
        (NOON, "utc", 1719835200.0),
        (NOON, "local", 1719849600.0),
        (datetime(1960, 1, 1, tzinfo=timezone.utc), "local", 0.0),
    ],
    ids=repr,
)
def test_given_an_at_when_read_then_it_is_this_moment(zone, at, naive_at, expected):
    found = options.moment(at, naive_at)
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize("seconds", [0.001, 60, 86400 * 3650])
def test_given_a_timedelta_when_read_then_it_is_that_far_from_now(seconds):
    before = time.time()
    found = options.moment(timedelta(seconds=seconds), "local")
    assert before + seconds <= found <= time.time() + seconds


@pytest.mark.parametrize(
    ("expires", "naive_at", "expected"),
    [
        (None, "local", 0.0),
        (60, "local", 1060.5),
        (timedelta(minutes=2), "utc", 1120.5),
        (NOON.replace(tzinfo=timezone.utc), "local", 1719835200.0),
        (NOON, "utc", 1719835200.0),
        (NOON, "local", 1719849600.0),
    ],
    ids=repr,
)
def test_given_an_expiry_when_read_then_seconds_count_from_the_call(
    zone, expires, naive_at, expected
):
    assert options.expiry(changed(expires=expires), 1000.5, naive_at) == expected


@pytest.mark.parametrize("value", [decimal.Decimal("1.5"), 5j])
def test_given_a_number_of_another_kind_when_checked_then_what_is_accepted_is_told(value):
    with pytest.raises(OptionError, match="UNIX timestamp"):
        changed(at=value)


# a delay


@pytest.mark.parametrize("delay", [0.25, 60, timedelta(milliseconds=250)])
def test_given_a_delay_when_read_then_it_counts_from_the_call(delay):
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    assert options.due(changed(delay=delay), 1000.0, "local") == 1000.0 + seconds


@pytest.mark.parametrize("delay", [None, 0, timedelta(0)])
def test_given_no_delay_when_read_then_it_is_at_once(delay):
    assert options.due(changed(delay=delay), 1000.0, "local") == 0.0


@pytest.mark.parametrize("at", [0, 5.0, timedelta(seconds=5), datetime(2030, 1, 1)])
def test_given_at_and_delay_together_when_checked_then_one_of_them_is_asked_for(at):
    with pytest.raises(OptionValueError, match="both say when it runs"):
        changed(at=at, delay=3)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
def test_given_a_delay_that_cannot_be_meant_when_checked_then_it_is_refused(delay):
    with pytest.raises(OptionValueError, match="delay"):
        changed(delay=delay)


@pytest.mark.parametrize(
    ("declared", "called", "expected"),
    [
        ({"at": 5e9}, {"delay": 3}, 1003.0),
        ({"at": 5e9}, {"delay": 0}, 0.0),
        ({"delay": 3}, {"at": 5e9}, 5e9),
        ({"delay": 3}, {"at": 0}, 0.0),
        ({"delay": 3}, {"at": None}, 1003.0),
        ({"at": 5e9}, {"delay": None}, 5e9),
    ],
)
def test_given_one_in_the_decorator_and_one_at_the_call_when_read_then_the_call_holds(
    declared, called, expected
):
    first = options.change(options.Options(), declared, "app.task", call=False)
    chosen = options.change(first, called, "app.task", call=True)
    assert options.due(chosen, 1000.0, "local") == expected
