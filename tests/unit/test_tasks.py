"""What users write and hold, where no server is: everything runs in the call."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import os
import pickle
import time
from datetime import timedelta

import pytest

import uwsgi_tasks
from uwsgi_tasks import SPOOL_OK, SPOOL_RETRY, RetryTaskException, get_current_task, task, tasks
from uwsgi_tasks.errors import (
    ArgumentsError,
    NotAvailable,
    OptionError,
    OptionValueError,
)
from uwsgi_tasks.tasks import Task, TaskExecutor

RUNS: list[object] = []


@pytest.fixture(autouse=True)
def runs():
    RUNS.clear()
    add.add_setup(retry_count=None, at=None)
    return RUNS


@task
def add(a, b=0):
    """Add."""
    RUNS.append((a, b))
    return a + b


@task(retry_count=3, retry_timeout=3600)
def stubborn(ok_at=99, error=KeyError):
    RUNS.append(get_current_task().attempt)
    if len(RUNS) < ok_at:
        raise error("stubborn")
    return "done"


@task(retry_count=3)
def by_code(ok_at=99):
    RUNS.append(get_current_task().attempt)
    return SPOOL_OK if len(RUNS) >= ok_at else SPOOL_RETRY


@task
def asks(count, until):
    RUNS.append(get_current_task().attempt)
    if len(RUNS) < until:
        raise RetryTaskException(count=count, timeout=3600)
    return "done"


@task(retry_count=3)
def keeps():
    buffer = get_current_task().buffer
    buffer["n"] = buffer.get("n", 0) + 1
    RUNS.append(buffer["n"])
    raise KeyError("again")


class Shop:
    def __init__(self, name="shop"):
        self.name = name

    @task
    def sell(self, what):
        return f"{self.name} {what}"

    def bound(self):
        pass


# results and exceptions


def test_given_no_server_when_called_then_it_runs_here_and_the_handle_has_the_result():
    handle = add(1, b=2)
    assert (handle.result(), handle.status(), handle.executor) == (3, "ok", TaskExecutor.RUNTIME)


def test_given_no_server_when_it_raises_then_the_exception_reaches_the_caller():
    with pytest.raises(TypeError):
        add(1, "x")


def test_given_run_when_called_then_it_is_the_plain_function():
    assert (add.run(1, 2), add.function(1, 2)) == (3, 3)


def test_given_a_task_that_reads_codes_when_it_says_ok_then_there_is_no_result():
    assert by_code(ok_at=1).result() is None


def test_given_a_task_that_is_done_when_cancelled_then_it_is_too_late():
    assert add(1).cancel() is False


def test_given_two_calls_when_made_then_their_handles_have_ids_that_sort_by_time():
    first, second = add(1), add(2)
    assert first.id < second.id


def test_given_a_handle_when_shown_then_id_and_executor_are_seen():
    handle = add(1)
    assert repr(handle) == f"<Handle {handle.id} RUNTIME>"


# retries, in place


@pytest.mark.parametrize("function", [stubborn, by_code], ids=["exception", "code"])
def test_given_a_retry_count_when_it_succeeds_at_the_third_then_it_is_done_at_once(function, runs):
    before = time.monotonic()
    assert function(ok_at=3).status() == "ok"
    assert (runs, time.monotonic() - before < 60) == ([1, 2, 3], True)


def test_given_a_retry_count_when_it_never_succeeds_then_the_last_exception_is_the_callers(runs):
    with pytest.raises(KeyError):
        stubborn()
    assert runs == [1, 2, 3]


def test_given_a_retry_count_when_codes_never_say_ok_then_it_is_dead(runs):
    assert by_code().status() == "dead"
    assert runs == [1, 2, 3]


def test_given_a_count_in_the_exception_when_raised_each_time_then_max_attempts_ends_it(runs):
    uwsgi_tasks.configure(max_attempts=7)
    with pytest.raises(RetryTaskException):
        asks(5, 99)
    assert len(runs) == 7


@pytest.mark.parametrize(("count", "expected"), [(None, 1), (0, 1), (1, 2)])
def test_given_a_count_in_the_exception_when_raised_once_then_so_many_runs_follow(count, expected):
    with pytest.raises((RetryTaskException, ZeroDivisionError)):
        _once(count)
    assert len(RUNS) == expected


@task
def _once(count):
    RUNS.append(1)
    if len(RUNS) == 1:
        raise RetryTaskException(count=count)
    raise ZeroDivisionError


def test_given_a_buffer_when_it_is_retried_then_it_is_kept(runs):
    with pytest.raises(KeyError):
        keeps()
    assert runs == [1, 2, 3]


def test_given_an_at_when_run_in_place_then_it_runs_now_with_one_warning(caplog, runs):
    for _ in range(2):
        add.options(at=timedelta(hours=1))(1)
    assert len(runs) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# options per call


def test_given_options_of_one_call_when_made_then_the_next_call_has_none_of_them(runs):
    with pytest.raises(ZeroDivisionError):
        zero.options(retry_count=2)()
    with pytest.raises(ZeroDivisionError):
        zero()
    assert len(runs) == 3


@task
def zero():
    RUNS.append(0)
    return 1 / 0


def test_given_add_setup_when_called_later_then_it_holds_until_the_next(runs):
    zero.add_setup(retry_count=2)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            zero()
    zero.add_setup(retry_count=None)
    with pytest.raises(ZeroDivisionError):
        zero()
    assert len(runs) == 5


def test_given_a_wrong_option_of_a_call_when_said_then_it_is_refused_before_the_call(runs):
    with pytest.raises(OptionValueError, match=r"test_tasks\.add: retry_count=-1"):
        add.options(retry_count=-1)
    assert runs == []


@pytest.mark.parametrize("option", ["name", "retry_on", "no_retry_on", "max_attempts"])
def test_given_an_option_of_the_decorator_when_said_at_a_call_then_it_is_refused(option):
    with pytest.raises(OptionError, match="belongs to the decorator"):
        add.options(**{option: 5})


def test_given_a_wrong_option_in_add_setup_when_refused_then_the_task_is_as_before():
    with pytest.raises(OptionError, match="did you mean 'priority'"):
        add.add_setup(prioriti=5)
    assert add(1).result() == 1


# what can't be sent


@pytest.mark.parametrize("serializer", ["pickle", "json"])
@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((lambda: 1,), {}, r"argument 1 \(function\)"),
        ((1, lambda: 1), {}, r"argument 2 \(function\)"),
        ((1,), {"b": lambda: 1}, r"argument 'b' \(function\)"),
    ],
)
def test_given_an_argument_that_cannot_be_sent_when_called_then_it_is_named_and_nothing_runs(
    serializer, args, kwargs, named, runs
):
    with pytest.raises(ArgumentsError, match=rf"test_tasks\.add: {named} can't be sent"):
        add.options(serializer=serializer)(*args, **kwargs)
    assert runs == []


def test_given_json_when_called_in_place_then_the_task_sees_what_it_would_see_elsewhere(runs):
    add.options(serializer="json")((1, 2), [])
    assert runs == [([1, 2], [])]


# what is refused at decoration


def nested():
    def inner():
        pass

    return inner


async def asynchronous():
    pass


async def asynchronous_generator():
    yield


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: 1, "it is a lambda"),
        (nested(), "inside another function"),
        (functools.partial(print), "no name of its own"),
        (asynchronous, "asyncio.run"),
        (asynchronous_generator, "asyncio.run"),
        (Shop().bound, "bound method"),
        (5, "takes a function, not int"),
        (add, "a task already"),
    ],
    ids=[
        "lambda",
        "nested",
        "partial",
        "coroutine",
        "async generator",
        "bound method",
        "number",
        "task",
    ],
)
def test_given_what_can_be_no_task_when_decorated_then_the_error_tells_why(function, told):
    with pytest.raises(OptionError, match=told):
        task(function)


@pytest.mark.parametrize("function", [nested(), lambda: 1], ids=["nested", "lambda"])
def test_given_a_name_when_a_function_cannot_be_found_by_its_own_then_it_is_a_task(function):
    assert task(name="test.named")(function).name == "test.named"


def test_given_a_wrong_option_of_the_decorator_when_refused_then_nothing_is_registered():
    with pytest.raises(OptionError, match="did you mean 'retry_count'"):
        task(name="test.refused", retry_cuont=3)(nested())
    assert "test.refused" not in tasks._tasks


@pytest.mark.parametrize("executor", list(TaskExecutor))
def test_given_any_executor_when_no_server_is_here_then_it_runs_here(executor):
    assert add.options(executor=executor)(1).executor == TaskExecutor.RUNTIME


@pytest.mark.parametrize("executor", [TaskExecutor.SPOOLER, TaskExecutor.MULE])
def test_given_strict_when_no_server_is_here_then_it_is_refused(executor, runs):
    with pytest.raises(NotAvailable, match=r"test_tasks\.add: there is no"):
        add.options(executor=executor, strict=True)(1)
    assert runs == []


def test_given_a_spooler_directory_when_no_server_is_here_then_it_is_written_there(spool, runs):
    uwsgi_tasks.configure(spooler=spool)
    handle = add(1)
    assert (handle.status(), handle.executor, runs) == ("queued", TaskExecutor.SPOOLER, [])
    with pytest.raises(NotAvailable, match="store_result=True"):
        handle.result()
    assert (handle.cancel(), handle.status()) == (True, "cancelled")


# the object itself


def test_given_a_task_when_looked_at_then_it_looks_like_its_function():
    assert (add.__name__, add.__doc__, add.name) == ("add", "Add.", f"{__name__}.add")
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    assert repr(add) == f"<Task {__name__}.add>"


def test_given_a_task_when_pickled_then_it_is_the_same_object():
    assert pickle.loads(pickle.dumps(add)) is add
    assert copy.deepcopy(add) is add


def test_given_a_task_as_an_argument_when_called_then_it_travels_by_its_name():
    assert apply(add, 1, 2).result() == 3


@task
def apply(function, *args):
    return function.run(*args)


def test_given_a_task_in_a_class_when_called_on_an_object_then_the_object_is_the_first_argument():
    assert Shop("corner").sell("bread").result() == "corner bread"
    assert Shop.sell(Shop(), "milk").result() == "shop milk"


# working directory


def test_given_a_working_dir_when_run_in_place_then_it_is_entered_and_left(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert directory.options(working_dir=tmp_path)().result() == str(tmp_path)
    assert os.getcwd() == "/"


@task
def directory():
    return os.getcwd()


def test_given_the_callers_directory_was_removed_when_called_then_it_runs(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert add(1, 2).result() == 3


# the log


def test_given_a_run_when_it_succeeds_then_start_and_end_are_told_and_no_argument(caplog):
    with caplog.at_level(logging.INFO, "uwsgi_tasks"):
        add(4711, 0)
    assert [record.action for record in caplog.records] == ["started", "ok"]
    assert "4711" not in caplog.text


def test_given_the_class_when_made_by_hand_then_it_is_a_task_as_by_the_decorator():
    def plain():
        return 1

    found = Task(plain, TaskExecutor.RUNTIME, name="test.by_hand")
    assert found().result() == 1
