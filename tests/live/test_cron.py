"""Cron on a real server: what fires at the next minute, and what is refused or warned about."""

from __future__ import annotations

import time

import pytest

from tests.support.server import RemoteError

APP = """
import time
from uwsgi_tasks import cron, cron_lazy, timer

@timer(seconds=0.2)
def beat(signal_number):
    note("beat")

@cron()
def every_minute(signal_number):
    note("every_minute", number=signal_number, place=place())

@cron(minute=-1, target="worker")
def every_minute_in_a_worker(signal_number):
    note("in_worker", place=place())

@cron(-1, -1, -1, -1, -1)
def positional():
    note("positional")

@cron("* * * * *", tz="Europe/Rome")
def expression(signal_number):
    note("expression")

@cron(minute=-2)
def print_every_2_minutes(signal_number):
    return "two"

@cron_lazy(minute=-1, target="mule")
def lazy(signal_number):
    note("lazy", place=place())

@cron_lazy(minute=-1)
def never_called(signal_number):
    note("never")

@cron_lazy("0 9 * * mon-fri", tz="Europe/Rome")
def office(signal_number):
    pass

@cron_lazy("@hourly")
def hourly(signal_number):
    pass

@cron_lazy(hour=5)
def all_of_five(signal_number):
    pass

@cron_lazy(hour=5, minute=0)
def once_at_five(signal_number):
    pass

def next_of(schedule, moment):
    return schedule.rule().next_after(moment, None)
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP, "mule = true", "workers = 2", env={"TZ": "UTC"})


@pytest.fixture(scope="module")
def at_the_minute(shared):
    """The server after a whole minute began, with a bit more so that a twin would be there too."""
    shared.eval("lazy()")
    shared.ledger.wait("every_minute", timeout=65.0)
    shared.ledger.wait("beat", count=len(shared.ledger.rows("beat")) + 6)
    return shared


@pytest.mark.slow
@pytest.mark.parametrize("event", ["every_minute", "in_worker", "positional", "expression", "lazy"])
def test_given_a_cron_of_every_minute_when_the_minute_begins_then_it_fires_once(
    at_the_minute, event
):
    (row,) = at_the_minute.ledger.rows(event)[:2]
    assert row["time"] % 60 < 3.0


@pytest.mark.slow
def test_given_a_cron_when_it_fires_then_it_gets_its_number(at_the_minute):
    (row,) = at_the_minute.ledger.rows("every_minute")
    assert row["number"] == at_the_minute.eval("every_minute.number")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "place"), [("every_minute", "spooler"), ("in_worker", "worker"), ("lazy", "mule1")]
)
def test_given_a_cron_with_a_target_when_it_fires_then_it_runs_there(at_the_minute, event, place):
    assert {row["place"] for row in at_the_minute.ledger.rows(event)} == {place}


@pytest.mark.slow
def test_given_a_lazy_cron_that_nobody_called_when_the_minute_begins_then_it_is_silent(
    at_the_minute,
):
    assert at_the_minute.ledger.rows("never") == []


def test_given_a_cron_when_its_run_is_called_then_the_plain_function_runs(shared):
    assert shared.eval("print_every_2_minutes.run()") == "two"


def test_given_a_cron_of_minus_two_when_asked_then_it_is_due_at_even_minutes(shared):
    due = shared.eval("next_of(print_every_2_minutes, 1700000040.0)")  # 22:14 UTC
    assert time.gmtime(due)[3:5] == (22, 16)


def test_given_an_expression_with_a_zone_when_asked_then_it_is_due_in_that_zone(shared):
    due = shared.eval("next_of(office, 1700000000.0)")  # a Tuesday, 22:13 UTC
    assert time.gmtime(due)[:5] == (2023, 11, 15, 8, 0)


def test_given_hourly_when_asked_then_it_is_due_at_the_full_hour(shared):
    assert shared.eval("next_of(hourly, 1700000000.0)") % 3600 == 0


def test_given_an_hour_without_a_minute_when_declared_then_it_warns_and_names_the_cure(shared):
    line = shared.wait_log("all_of_five.*every minute")
    assert "minute=0" in line


def test_given_an_hour_with_a_minute_when_declared_then_it_does_not_warn(shared):
    assert "once_at_five" not in shared.log()


def test_given_a_lazy_cron_when_started_and_stopped_then_it_says_whether_it_ran(shared):
    assert shared.eval("[office(), office.stop(), office.stop()]") == [None, True, False]


@pytest.mark.parametrize(
    "call",
    [
        "cron(minute=60)",
        "cron(hour=24)",
        "cron(day=0)",
        "cron(month=13)",
        "cron(dayweek=8)",
        "cron(minute=-60)",
        "cron(minute=1.5)",
        "cron('61 * * * *')",
        "cron('* * *')",
        "cron('@sometimes')",
        "cron('* * * * *', tz='Europe/Nowhere')",
    ],
)
def test_given_a_cron_that_cant_be_when_declared_then_it_is_a_value_error(shared, call):
    with pytest.raises(RemoteError, match="cron") as caught:
        shared.eval(call)
    assert "ValueError" in caught.value.kinds


@pytest.mark.parametrize("call", ["cron('* * * * *', hour=5)", "cron(hour=5, tz='Europe/Rome')"])
def test_given_two_ways_at_once_when_declared_then_it_is_a_type_error(shared, call):
    with pytest.raises(RemoteError, match="cron") as caught:
        shared.eval(call)
    assert "TypeError" in caught.value.kinds


def test_given_an_unknown_setup_of_a_cron_when_added_then_it_is_refused_with_a_hint(shared):
    with pytest.raises(RemoteError, match="did you mean 'minute'"):
        shared.eval("office.add_setup(minutes=3)")


def test_given_a_wrong_field_of_a_cron_when_added_then_it_is_refused(shared):
    with pytest.raises(RemoteError) as caught:
        shared.eval("lazy.add_setup(minute=75)")
    assert "ValueError" in caught.value.kinds
