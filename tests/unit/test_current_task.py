"""The running task's object, where no server is."""

from __future__ import annotations

import threading
from contextvars import copy_context
from datetime import timedelta

import pytest

from uwsgi_tasks import get_current_task, task
from uwsgi_tasks.errors import OptionError, UwsgiTasksError
from uwsgi_tasks.tasks import BaseTask, MuleTask, RuntimeTask, SpoolerTask, TaskExecutor

RUNS: list[object] = []


@pytest.fixture(autouse=True)
def runs():
    RUNS.clear()
    return RUNS


@task
def look():
    return get_current_task()


@task
def countdown(n):
    current = get_current_task()
    seen = current.buffer.setdefault("seen", [])
    RUNS.append((n, current.id, current.chain, list(seen), current.attempt))
    seen.append(n)
    return current(n - 1) if n else None


@task
def change(name, value):
    current = get_current_task()
    setattr(current, name, value)
    return getattr(current, name)


# the running task's object


def test_given_no_run_when_asked_then_there_is_no_current_task():
    assert get_current_task() is None


def test_given_a_run_when_asked_then_it_tells_of_itself():
    handle = look()
    current = handle.result()
    assert isinstance(current, RuntimeTask)
    assert isinstance(current, BaseTask)
    assert (current.id, current.attempt, current.args, current.kwargs) == (handle.id, 1, (), {})
    assert (current.executor, current.chain, current.at) == (TaskExecutor.RUNTIME, handle.id, None)
    assert (current.name, current.retry_count, current.retry_timeout) == (look.name, 1, 0.0)


def test_given_a_run_when_asked_for_its_setup_then_it_is_a_dict_of_its_own():
    setup = look.options(priority=5, queue="mail", working_dir=None)().result().setup
    assert setup["priority"] == 5.0
    assert (setup["queue"], setup["working_dir"], setup["buffer"]) == ("mail", None, {})


def test_given_a_run_when_asked_twice_then_it_is_the_same_object():
    assert twice().result() is True


@task
def twice():
    return get_current_task() is get_current_task()


def test_given_a_thread_that_carries_the_context_when_asked_then_it_sees_the_run():
    assert in_thread().result() is True


@task
def in_thread():
    found, context = [], copy_context()
    thread = threading.Thread(target=lambda: found.append(context.run(get_current_task)))
    thread.start()
    thread.join()
    return found[0] is get_current_task()


def test_given_a_task_inside_a_task_when_it_is_over_then_the_outer_is_current_again():
    assert outer().result() is True


@task
def outer():
    before = get_current_task()
    inner = look().result()
    return inner is not before and get_current_task() is before


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("retry_count", 5, 5),
        ("retry_timeout", timedelta(minutes=1), 60.0),
        ("retry_timeout", 2, 2.0),
        ("at", timedelta(hours=1), timedelta(hours=1)),
        ("at", None, None),
    ],
)
def test_given_a_run_when_it_changes_its_setup_then_it_reads_the_change(name, value, expected):
    assert change(name, value).result() == expected


@pytest.mark.parametrize(
    ("name", "value"), [("retry_count", "5"), ("retry_timeout", []), ("at", "soon")]
)
def test_given_a_run_when_it_sets_what_cannot_be_meant_then_it_is_an_option_error(name, value):
    with pytest.raises(OptionError, match=rf"test_current_task\.change: {name}="):
        change(name, value)


def test_given_kinds_of_running_tasks_when_asked_then_each_is_a_base_task():
    assert all(issubclass(kind, BaseTask) for kind in (SpoolerTask, MuleTask, RuntimeTask))


# the next step


def test_given_steps_when_each_calls_the_next_then_chain_and_buffer_stay_and_ids_are_new(runs):
    countdown(2)
    numbers, ids, chains, seen, attempts = zip(*runs, strict=True)
    assert (numbers, seen) == ((2, 1, 0), ([], [2], [2, 1]))
    assert (len(set(ids)), set(chains), set(attempts)) == (3, {ids[0]}, {1})


def test_given_steps_without_end_when_run_in_place_then_a_limit_ends_them_with_the_cure(runs):
    with pytest.raises(UwsgiTasksError, match="needs a spooler"):
        countdown(1000)
    assert len(runs) == 50


def test_given_steps_below_the_limit_when_run_in_place_then_all_run(runs):
    countdown(49)
    assert len(runs) == 50
