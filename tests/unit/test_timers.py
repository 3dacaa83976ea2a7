"""Timers and cron where no server is: importing them is harmless, and they can be called."""

from __future__ import annotations

import functools
import json
import time
from datetime import timedelta

import pytest

import uwsgi_tasks
from uwsgi_tasks import cron, cron_lazy, engine, timer, timer_lazy
from uwsgi_tasks.errors import NotAvailable, OptionError, OptionValueError
from uwsgi_tasks.schedule import CronExpression, CronFields, Every
from uwsgi_tasks.timers import CronTask, OneTimeTask, SignalTask, TimerTask

RUNS: list[object] = []


def work(signal_number):
    """Work."""
    RUNS.append(signal_number)
    return "worked"


def idle():
    RUNS.append("idle")
    return "idled"


def wrapped(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


@pytest.fixture(autouse=True)
def runs():
    RUNS.clear()
    return RUNS


# declared


@pytest.mark.parametrize(
    ("decorator", "kind", "lazy"),
    [
        (timer(seconds=5), TimerTask, False),
        (timer_lazy(seconds=5), TimerTask, True),
        (timer_lazy(), TimerTask, True),
        (timer_lazy, TimerTask, True),
        (cron(minute=0), CronTask, False),
        (cron(), CronTask, False),
        (cron, CronTask, False),
        (cron_lazy(minute=0), CronTask, True),
        (cron_lazy, CronTask, True),
        (cron("@hourly"), CronTask, False),
    ],
    ids=map(str, range(10)),
)
def test_given_no_server_when_declared_then_the_name_is_a_schedule_object(decorator, kind, lazy):
    found = decorator(work)
    assert (type(found), found.lazy, isinstance(found, SignalTask)) == (kind, lazy, True)


def test_given_a_schedule_when_looked_at_then_it_looks_like_its_function():
    found = timer(seconds=5)(work)
    assert (found.__name__, found.__doc__, found.name) == ("work", "Work.", f"{__name__}.work")
    assert repr(found) == f"<TimerTask {__name__}.work>"


def test_given_a_schedule_when_declared_again_then_its_number_is_the_same():
    first, second = timer(seconds=5)(work), timer(seconds=9)(work)
    assert first.number == second.number
    assert first.number != timer(seconds=5)(idle).number


def test_given_a_schedule_when_its_number_is_taken_then_it_is_a_positive_whole_one():
    assert timer(seconds=5)(work).number > 255


def test_given_a_schedule_when_declared_then_its_function_is_registered_under_its_name():
    timer(seconds=5)(work)
    assert f"{__name__}.work" in engine.registry.specs


def test_given_no_server_when_a_schedule_is_called_then_a_warning_tells_it_did_not_start(caplog):
    timer(seconds=5)(work)()
    assert "isn't started: there is no uWSGI server" in caplog.text


def test_given_no_home_when_a_schedule_is_stopped_then_it_is_told():
    with pytest.raises(NotAvailable):
        timer(seconds=5)(work).stop()


# run by hand


@pytest.mark.parametrize("decorator", [timer(seconds=5), cron(minute=0)], ids=["timer", "cron"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [(work, "worked"), (idle, "idled"), (wrapped(work), "worked"), (wrapped(idle), "idled")],
    ids=["with number", "without", "wrapped with number", "wrapped without"],
)
def test_given_a_schedule_when_run_then_its_function_is_called_as_a_firing_would(
    decorator, function, expected
):
    assert decorator(function).run() == expected


def test_given_a_schedule_when_run_then_it_gets_its_number(runs):
    found = timer(seconds=5)(work)
    found.run()
    found.run(7)
    assert runs == [found.number, 7]


def test_given_a_schedule_when_it_raises_then_the_caller_sees_it():
    with pytest.raises(ZeroDivisionError):
        timer(seconds=5)(_fails).run()


def _fails(signal_number):
    return 1 / 0


# rules


@pytest.mark.parametrize(
    ("decorator", "expected"),
    [
        (timer(seconds=5), Every(5.0)),
        (timer(seconds=0.5), Every(0.5)),
        (timer(seconds=timedelta(minutes=1)), Every(60.0)),
        (timer_lazy(), None),
        (cron(), CronFields()),
        (cron(59, 2), CronFields(59, 2)),
        (cron(minute=-5), CronFields(-5)),
        (cron(0, 1, 2, 3, 4), CronFields(0, 1, 2, 3, 4)),
        (cron("@hourly"), CronExpression("@hourly")),
        (
            cron("0 9 * * mon-fri", tz="Europe/Rome"),
            CronExpression("0 9 * * mon-fri", "Europe/Rome"),
        ),
    ],
    ids=map(str, range(10)),
)
def test_given_a_decorator_when_asked_for_its_rule_then_it_is_this(decorator, expected):
    assert decorator(work).rule() == expected


@pytest.mark.parametrize(
    ("given", "expected"), [({}, None), ({"iterations": 0}, None), ({"iterations": 3}, 3)]
)
def test_given_iterations_when_asked_then_zero_and_none_mean_for_ever(given, expected):
    assert timer(seconds=5, **given)(work).iterations() == expected


def test_given_a_one_time_task_when_asked_then_it_fires_once_after_a_call():
    found = OneTimeTask(work)
    assert (found.lazy, found.iterations()) == (True, 1)


def test_given_a_timer_when_its_row_is_made_then_it_is_due_after_its_period():
    before = time.time()
    row = timer(seconds=60, iterations=2, target="mule")(work).row()
    assert before + 60 <= row.next_at <= time.time() + 60
    assert (row.iterations, row.target, json.loads(row.rule)) == (2, "mule", ["every", 60.0])


# set up later


def test_given_a_lazy_timer_when_seconds_are_added_then_they_are_its_period():
    found = timer_lazy(work)
    found.add_setup(seconds=timedelta(seconds=9), iterations=4)
    assert (found.rule(), found.iterations()) == (Every(9.0), 4)


def test_given_a_cron_when_a_field_is_added_then_the_others_stay():
    found = cron_lazy(minute=5, hour=3)(work)
    found.add_setup(hour=4)
    assert found.rule() == CronFields(5, 4)


@pytest.mark.parametrize(
    ("schedule", "setup", "kind"),
    [
        (timer(seconds=5), {"seconds": 0}, OptionValueError),
        (timer(seconds=5), {"seconds": "5"}, OptionError),
        (timer(seconds=5), {"second": 5}, OptionError),
        (timer(seconds=5), {"minute": 5}, OptionError),
        (timer(seconds=5), {"target": "moon"}, OptionValueError),
        (cron(minute=5), {"minute": 75}, OptionValueError),
        (cron(minute=5), {"seconds": 5}, OptionError),
    ],
    ids=map(str, range(7)),
)
def test_given_a_setup_that_cannot_be_meant_when_added_then_it_is_refused_and_nothing_changed(
    schedule, setup, kind
):
    found = schedule(work)
    before = (found.rule(), found.target)
    with pytest.raises(kind, match=r"work|cron"):
        found.add_setup(**setup)
    assert (found.rule(), found.target) == before


# refused


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (0, OptionValueError),
        (-1, OptionValueError),
        (float("nan"), OptionValueError),
        (float("inf"), OptionValueError),
        (timedelta(0), OptionValueError),
        ("5", OptionError),
        (True, OptionError),
        ([], OptionError),
    ],
    ids=repr,
)
def test_given_a_period_that_cannot_be_meant_when_declared_then_the_schedule_is_named(
    seconds, kind
):
    with pytest.raises(kind, match=r"test_timers\.work: seconds="):
        timer(seconds=seconds)(work)


@pytest.mark.parametrize(
    ("iterations", "kind"), [(-1, OptionValueError), (2.0, OptionError), (True, OptionError)]
)
def test_given_iterations_that_cannot_be_meant_when_declared_then_it_is_refused(iterations, kind):
    with pytest.raises(kind, match="iterations="):
        timer(seconds=5, iterations=iterations)(work)


TARGETS = ["", "worker", "workers", "worker1", "active-workers", "mule", "mules", "mule2"]


@pytest.mark.parametrize("target", [*TARGETS, "farm_x", "spooler"])
def test_given_a_target_of_uwsgi_when_declared_then_it_is_taken(target):
    assert timer(seconds=5, target=target)(work).target == target


@pytest.mark.parametrize(
    "target", ["moon", "Worker", "worker-1", "workersx", "mule999", "farm_", " spooler", "farm"]
)
def test_given_another_target_when_declared_then_it_is_refused_with_what_it_takes(target):
    with pytest.raises(OptionValueError, match=r"target=.*(it takes|at most 256)"):
        timer(seconds=5, target=target)(work)


def test_given_a_target_of_another_type_when_declared_then_it_is_refused():
    with pytest.raises(OptionError, match="target=5: it takes a text"):
        timer(seconds=5, target=5)(work)


@pytest.mark.parametrize(
    ("target", "workers", "refused"), [("worker2", 2, False), ("worker3", 2, True)]
)
def test_given_a_server_when_a_worker_is_named_that_it_has_not_then_it_is_refused(
    fake, target, workers, refused
):
    fake()
    if not refused:
        assert timer(seconds=5, target=target)(work).target == target
        return
    with pytest.raises(OptionValueError, match=f"this server has {workers} workers"):
        timer(seconds=5, target=target)(work)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("not a cron",), {}),
        (("@never",), {}),
        (("@daily",), {"tz": "Europe/Atlantis"}),
        ((61,), {}),
        ((0, 24), {}),
    ],
)
def test_given_a_cron_that_cannot_be_meant_when_declared_then_it_is_refused(args, kwargs):
    with pytest.raises(OptionValueError, match="cron:"):
        cron(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"), [(("@daily",), {"hour": 5}), ((0, 5), {"tz": "Europe/Rome"})]
)
def test_given_parts_of_both_kinds_of_cron_when_declared_then_they_are_refused(args, kwargs):
    with pytest.raises(OptionError, match="cron:"):
        cron(*args, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "warned"),
    [
        ({"hour": 5}, True),
        ({"hour": 0}, True),
        ({"hour": 5, "minute": 0}, False),
        ({"hour": -2}, False),
        ({}, False),
    ],
    ids=str,
)
def test_given_an_hour_without_a_minute_when_declared_then_a_warning_names_the_minute(
    caplog, kwargs, warned
):
    cron(**kwargs)(work)
    assert ("add minute=0" in caplog.text) is warned


@pytest.mark.parametrize("function", [lambda n: n, 5], ids=["lambda", "number"])
def test_given_what_cannot_be_found_again_when_declared_then_it_is_refused(function):
    with pytest.raises(OptionError):
        timer(seconds=5)(function)


# with a server


def test_given_a_server_when_a_lazy_timer_is_called_then_it_stands_in_the_store(fake):
    fake()
    found = timer_lazy(seconds=60, iterations=2)(work)
    found()
    (row,) = engine.current().site().store.active_schedules()
    assert (row.name, row.iterations, row.number) == (found.name, 2, found.number)


def test_given_a_server_when_a_timer_is_called_twice_then_it_stands_once(fake):
    fake()
    found = timer_lazy(seconds=60)(work)
    found()
    found()
    assert len(engine.current().site().store.active_schedules()) == 1


def test_given_a_server_when_a_timer_without_seconds_is_called_then_the_cure_is_told(fake):
    fake()
    with pytest.raises(OptionValueError, match="add_setup"):
        timer_lazy(work)()


def test_given_a_schedule_that_runs_when_stopped_then_it_is_told_once(fake):
    fake()
    found = timer_lazy(seconds=60)(work)
    found()
    assert (found.stop(), found.stop()) == (True, False)


def test_given_the_package_when_imported_then_the_documented_names_are_there():
    assert uwsgi_tasks.timer is timer
    assert uwsgi_tasks.CronTask is CronTask
