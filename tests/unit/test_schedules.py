"""Schedules at run time: what can be added, what is told of them, and what steers them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
import time_machine

from uwsgi_tasks import TaskExecutor, engine, schedules, task, timer, wire
from uwsgi_tasks.errors import ArgumentsError, NotAvailable, OptionError, OptionValueError

UTC = timezone.utc
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def moment():
    with time_machine.travel(NOW, tick=False) as found:
        yield found


@pytest.fixture
def report(fake):
    fake()
    return task(name="app.report")(lambda *args, **kwargs: None)


def row_of(name):
    return engine.current().site().store.schedule(name)


def message_of(name):
    return wire.unpack(row_of(name).envelope, engine.current().site().signer)


# adding


def test_given_a_period_when_added_then_it_is_due_after_it(report):
    found = schedules.add(report, every=60, name="r")
    assert (found.name, found.task, found.rule) == ("r", "app.report", "every 60 s")
    assert (found.state, found.origin, found.next_at) == (
        "active",
        "added",
        NOW + timedelta(seconds=60),
    )


def test_given_a_cron_with_a_zone_when_added_then_it_is_due_there(report):
    found = schedules.add(report, cron="0 14 * * *", tz="Europe/Berlin")
    assert found.next_at == NOW + timedelta(hours=1)
    assert found.rule == "0 14 * * * (Europe/Berlin)"


def test_given_arguments_when_added_then_its_message_has_them_and_is_signed(report):
    schedules.add(report, every=60, name="r", args=("a", 1), kwargs={"b": 2})
    assert wire.load_arguments(message_of("r")) == (("a", 1), {"b": 2})


def test_given_options_of_a_call_when_added_then_its_message_has_them(report):
    schedules.add(
        report.options(priority=3, queue="slow", retry_count=4, expires=9), every=60, name="r"
    )
    message = message_of("r")
    assert (message.priority, message.queue, message.policy.executions) == (3.0, "slow", 4)
    assert "9.0" in row_of("r").options


def test_given_a_delay_of_the_task_when_added_then_the_schedule_alone_tells_when(report):
    schedules.add(report.options(at=timedelta(hours=1)), every=60, name="r")
    assert message_of("r").at == 0.0


def test_given_the_name_of_a_task_that_is_not_known_here_when_added_then_it_is_taken(report):
    schedules.add("elsewhere.task", every=60, name="r", args=(1,))
    assert message_of("r").task == "elsewhere.task"


def test_given_the_name_of_a_task_that_is_known_when_added_then_its_options_hold(fake):
    fake()
    task(name="app.urgent", priority=1)(lambda: None)
    schedules.add("app.urgent", every=60, name="r")
    assert message_of("r").priority == 1.0


def test_given_no_name_when_added_then_the_same_again_is_the_same_and_others_are_others(report):
    names = [
        schedules.add(report, every=every, args=args).name
        for every, args in ((60, (1,)), (60, (1,)), (60, (2,)), (30, (1,)))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[0].startswith("app.report#")


def test_given_the_same_when_added_again_later_then_its_phase_goes_on(report, moment):
    first = schedules.add(report, every=60, name="r")
    moment.shift(30)
    assert schedules.add(report, every=60, name="r").next_at == first.next_at


def test_given_another_definition_when_added_under_the_name_then_it_replaces_it(report, moment):
    schedules.add(report, every=60, name="r")
    moment.shift(30)
    found = schedules.add(report, every=10, name="r")
    assert (found.next_at, len(schedules.list())) == (NOW + timedelta(seconds=40), 1)


def test_given_a_start_when_added_then_a_period_begins_there(report):
    start = NOW + timedelta(hours=5)
    found = schedules.add(report, every=60, start=start)
    assert found.next(2) == [start, start + timedelta(seconds=60)]


def test_given_a_start_in_the_past_when_added_then_the_phase_is_that(report):
    found = schedules.add(report, every=3600, start=NOW - timedelta(minutes=90))
    assert found.next_at == NOW + timedelta(minutes=30)


def test_given_a_start_when_a_cron_is_added_then_it_is_not_due_before(report):
    start = datetime(2026, 3, 4, 9, 0, tzinfo=UTC)
    assert schedules.add(report, cron="0 9 * * *", tz="UTC", start=start).next_at == start


def test_given_a_naive_start_when_a_zone_is_named_then_it_is_read_in_it(report):
    found = schedules.add(report, every=60, start=datetime(2026, 3, 3, 9), tz="Europe/Berlin")
    assert found.next_at == datetime(2026, 3, 3, 8, tzinfo=UTC)


def test_given_an_end_when_its_moments_are_asked_for_then_they_stop_there(report):
    found = schedules.add(report, every=60, end=NOW + timedelta(seconds=150))
    assert len(found.next(9)) == 2


def test_given_iterations_when_its_moments_are_asked_for_then_there_are_so_many(report):
    assert len(schedules.add(report, every=60, iterations=3).next(9)) == 3


def test_given_an_end_that_is_past_when_added_then_it_is_stopped(report):
    found = schedules.add(report, every=60, start=1, end=NOW - timedelta(days=1))
    assert (found.state, found.next_at, found.next(3)) == ("stopped", None, [])


# refused


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({}, OptionError, "either every=… or cron=…"),
        ({"every": 5, "cron": "@daily"}, OptionError, "either every=… or cron=…"),
        ({"every": 0}, OptionValueError, "every=0: it takes more than 0 seconds"),
        ({"every": "5"}, OptionError, "every='5': it takes seconds"),
        ({"cron": 5}, OptionError, "cron=5: it takes an expression"),
        ({"cron": "* * *"}, OptionValueError, "no cron expression"),
        ({"cron": "0 * * * * *"}, OptionValueError, "a field of seconds"),
        ({"cron": "@daily", "tz": "Mars/Phobos"}, OptionValueError, "no known time zone"),
        ({"cron": "@daily", "tz": 5}, OptionError, "tz=5"),
        ({"every": 5, "missed": "never"}, OptionValueError, "missed='never': it takes 'skip'"),
        ({"every": 5, "overlap": 1}, OptionValueError, "overlap=1: it takes 'skip'"),
        ({"every": 5, "jitter": 5}, OptionValueError, "jitter=5 has to be shorter"),
        ({"every": 5, "jitter": -1}, OptionValueError, "jitter=-1"),
        ({"every": 5, "jitter": "1"}, OptionError, "jitter='1'"),
        ({"every": 5, "start": "noon"}, OptionError, "start='noon': it takes a datetime"),
        ({"every": 5, "end": -1}, OptionValueError, "end=-1"),
        ({"every": 5, "start": 200, "end": 100}, OptionValueError, "start=200 isn't before"),
        ({"every": 5, "iterations": -1}, OptionValueError, "iterations=-1"),
        ({"every": 5, "args": "abc"}, OptionError, "args='abc': it takes a tuple"),
        ({"every": 5, "kwargs": [1]}, OptionError, "it takes a dict"),
        ({"every": 5, "kwargs": {1: 2}}, OptionError, "it takes a dict"),
        ({"every": 5, "target": "moon"}, OptionValueError, "target='moon'"),
        ({"every": 5, "mised": "all"}, OptionError, "did you mean 'missed'"),
        ({"every": 5, "name": ""}, OptionValueError, "name=''"),
        ({"every": 5, "name": 7}, OptionError, "name=7"),
    ],
    ids=str,
)
def test_given_what_cannot_be_meant_when_added_then_the_error_names_it(report, options, kind, told):
    with pytest.raises(kind, match=r"(?s)(app\.report|7|).*") as caught:
        schedules.add(report, **options)
    assert told in str(caught.value)
    assert schedules.list() == []


def test_given_a_plain_function_when_added_then_the_cure_is_told(report):
    with pytest.raises(OptionError, match="decorate the function with @task"):
        schedules.add(print, every=5)


def test_given_a_task_of_the_caller_when_added_without_a_target_then_it_is_refused(report):
    with pytest.raises(OptionValueError, match="name a target"):
        schedules.add(report.options(executor=TaskExecutor.RUNTIME), every=5)


def test_given_arguments_that_cannot_be_sent_when_added_then_the_error_names_them(report):
    with pytest.raises(ArgumentsError, match="argument 1"):
        schedules.add(report, every=5, args=(lambda: 0,))


@pytest.mark.parametrize("target", ["worker2", "mule", "farm_x"])
def test_given_a_target_that_is_not_there_when_added_then_it_is_told(report, target):
    with pytest.raises(NotAvailable, match=target):
        schedules.add(report, every=5, target=target)


def test_given_no_home_when_added_then_it_is_told():
    with pytest.raises(NotAvailable, match="UWSGITASKS_HOME"):
        schedules.add("a.task", every=5)


def tick(signal_number):
    """A schedule of the code."""


@pytest.fixture
def declared(report):
    found = timer(seconds=60)(tick)
    engine.current().site().store.declare([found.row()])
    return found.name


def test_given_a_declared_schedule_when_one_of_its_name_is_added_then_it_is_refused(
    report, declared
):
    with pytest.raises(OptionValueError, match="the code declares"):
        schedules.add(report, every=5, name=declared)


def test_given_a_declared_schedule_when_removed_then_it_is_refused_with_the_cure(declared):
    with pytest.raises(OptionValueError, match="pause it"):
        schedules.remove(declared)


# steering


def test_given_schedules_when_listed_then_declared_and_added_ones_come_by_name(report, declared):
    schedules.add(report, every=5, name="a")
    assert [(found.name, found.origin) for found in schedules.list()] == [
        ("a", "added"),
        (declared, "declared"),
    ]


def test_given_an_added_schedule_when_removed_then_it_is_gone(report):
    schedules.add(report, every=5, name="r").remove()
    assert schedules.list() == []


def test_given_a_pause_when_resumed_then_it_goes_on_in_its_phase(report, moment):
    found = schedules.add(report, every=60, name="r")
    found.pause()
    assert (schedules.show("r").state, schedules.show("r").next_at) == ("paused", None)
    moment.shift(150)
    found.resume()
    assert schedules.show("r").next_at == NOW + timedelta(seconds=180)


def test_given_a_short_pause_when_resumed_then_its_next_moment_stays(report, moment):
    found = schedules.add(report, every=60, name="r")
    found.pause()
    moment.shift(10)
    found.resume()
    assert schedules.show("r").next_at == found.next_at


def test_given_a_schedule_when_asked_to_run_now_then_its_row_says_so(report):
    found = schedules.add(report, every=60, name="r")
    assert row_of("r").asked_id == ""
    assert found.run_now() == row_of("r").asked_id


def test_given_a_cron_when_its_next_moments_are_asked_for_then_there_are_so_many(report):
    schedules.add(report, cron="0 9 * * mon-fri", tz="UTC", name="r")
    assert [due.day for due in schedules.next("r", 5)] == [3, 4, 5, 6, 9]


@pytest.mark.parametrize(
    "call",
    [
        schedules.remove,
        schedules.pause,
        schedules.resume,
        schedules.run_now,
        schedules.next,
        schedules.show,
    ],
    ids=lambda call: call.__name__,
)
def test_given_a_name_that_nobody_has_when_steered_then_it_is_a_key_error(report, call):
    with pytest.raises(KeyError, match="There is no schedule 'nobody'"):
        call("nobody")


# the same options in the code


RUNS: list[object] = []


@pytest.fixture(autouse=True)
def runs():
    RUNS.clear()


def two(kind, size=1):
    RUNS.append((kind, size))


def three(signal_number, kind, size):
    RUNS.append((signal_number, kind, size))


def test_given_a_function_without_room_for_the_number_when_run_then_it_gets_its_arguments(fake):
    fake()
    timer(seconds=5, args=("a",), kwargs={"size": 2})(two).run()
    assert RUNS == [("a", 2)]


def test_given_a_function_with_room_for_the_number_when_run_then_it_comes_first(fake):
    fake()
    found = timer(seconds=5, args=("a", 2))(three)
    found.run()
    assert [(found.number, "a", 2)] == RUNS


def test_given_options_in_the_code_when_declared_then_its_row_has_them(fake):
    fake()
    found = timer(seconds=60, missed="all", overlap="allow", jitter=3, name="my timer")(tick)
    row = found.row()
    assert (row.name, row.task) == ("my timer", "my timer")
    assert row.options.startswith('["all", "allow", 3.0')


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"missed": "x"}, OptionValueError),
        ({"over_lap": "skip"}, OptionError),
        ({"jitter": 60}, OptionValueError),
        ({"name": 3}, OptionError),
    ],
)
def test_given_options_that_cannot_be_meant_when_declared_then_they_are_refused(
    fake, options, kind
):
    fake()
    with pytest.raises(kind):
        timer(seconds=60, **options)(tick)


def test_given_a_definition_when_anything_of_it_changes_then_its_digest_does(fake):
    fake()
    given = [{}, {"args": (1,)}, {"missed": "all"}, {"target": "worker"}, {"iterations": 2}]
    rows = [timer(seconds=60, **options)(tick).row() for options in given]
    rows.append(timer(seconds=61)(tick).row())
    assert len({row.digest for row in rows}) == len(rows)
    assert timer(seconds=60)(tick).row().digest == rows[0].digest
