"""The running task's object: what it tells, and what changing it does."""

from __future__ import annotations

import itertools

import pytest

APP = """
import contextvars, threading, time
from datetime import timedelta
from uwsgi_tasks import (task, TaskExecutor, SPOOL_RETRY, get_current_task, RetryTaskException,
                         Task)
from uwsgi_tasks import tasks as names

SPOOLER = TaskExecutor.SPOOLER

def tell(event="ran", **fields):
    current = get_current_task()
    note(event, args=current.args, kwargs=current.kwargs, id=current.id, attempt=current.attempt,
         executor=current.executor.name, chain=current.chain, left=current.retry_count, **fields)

@task
def tells(*args, **kwargs):
    tell(kinds=[k.__name__ for k in type(get_current_task()).__mro__])

@task(executor=SPOOLER)
def in_threads():
    def other(word):
        current = get_current_task()
        note("thread", word=word, id=current and current.id)
    context = contextvars.copy_context()
    for target, args in ((context.run, (other, "carried")), (other, ("bare",))):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()

@task(executor=SPOOLER, retry_count=3)
def big_buffer(steps):
    current = get_current_task()
    note("size", attempt=current.attempt, step=steps, size=len(current.buffer.get("data", "")))
    current.buffer["data"] = current.buffer.get("data", "") + "x" * 200_000
    if current.attempt == 1:
        raise KeyError("again")
    if steps:
        return current(steps - 1)

@task(executor=SPOOLER)
def step(number, at=None):
    current = get_current_task()
    tell("step", number=number, seen=current.buffer.setdefault("seen", []) + [number])
    current.buffer["seen"].append(number)
    if number < 3:
        if at and number == 0:
            current.at = timedelta(seconds=at)
        return current(number + 1, at)

@task(executor=SPOOLER, retry_count=2)
def wants_more():
    current = get_current_task()
    tell()
    if current.attempt == 1:
        current.retry_count = 4
    raise KeyError("again")

@task(executor=SPOOLER, retry_count=2, retry_timeout=30)
def wants_sooner():
    get_current_task().retry_timeout = 0
    tell()
    raise KeyError("again")

@task(executor=SPOOLER)
def held(number):
    buffer = get_current_task().buffer
    note("held", before=dict(buffer))
    buffer["dirty"] = True
    wait_for_file("go")

@task(executor=TaskExecutor.RUNTIME)
def recursive(number):
    current = get_current_task()
    current.buffer["n"] = current.buffer.get("n", 0) + 1
    note("inline", number=number, n=current.buffer["n"])
    if number:
        return current(number - 1)

@task(executor=SPOOLER)
def leaves_nothing():
    note("left", current=get_current_task() is not None)
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP, "mule = true")


@pytest.mark.parametrize(
    ("executor", "kind"),
    [("SPOOLER", "SpoolerTask"), ("MULE", "MuleTask"), ("RUNTIME", "RuntimeTask")],
)
def test_given_an_executor_when_a_task_looks_at_itself_then_it_knows_its_call(
    shared, executor, kind
):
    code = f"tells.options(executor=TaskExecutor.{executor})(1, two='2')"
    handle = shared.eval(code)
    row = shared.ledger.wait_one("ran", id=handle["id"])
    told = (row["args"], row["kwargs"], row["attempt"], row["executor"], row["chain"])
    assert told == ([1], {"two": "2"}, 1, executor, handle["id"])
    assert kind in row["kinds"]


def test_given_no_run_when_asked_then_there_is_no_current_task(shared):
    assert shared.eval("get_current_task()") is None


def test_given_a_runtime_task_when_it_ended_then_there_is_no_current_task(shared):
    code = "(tells.options(executor=TaskExecutor.RUNTIME)(), get_current_task())[1]"
    assert shared.eval(code) is None


def test_given_a_thread_when_it_carries_the_context_then_it_sees_the_task(shared):
    handle = shared.call("in_threads")
    rows = shared.ledger.wait("thread", count=2)
    assert {row["word"]: row["id"] for row in rows} == {"carried": handle["id"], "bare": None}


def test_given_a_large_buffer_when_retried_and_called_again_then_it_is_kept(uwsgi):
    server = uwsgi(APP)
    server.call("big_buffer", 2)
    rows = server.ledger.wait("size", count=6)
    assert [row["size"] for row in rows] == [200_000 * n for n in range(6)]


def test_given_a_task_that_calls_itself_when_it_ran_then_ids_differ_and_the_chain_is_one(shared):
    handle = shared.call("step", 0)
    rows = shared.ledger.wait("step", count=4, chain=handle["id"])
    assert len({row["id"] for row in rows}) == 4
    assert [row["attempt"] for row in rows] == [1, 1, 1, 1]


def test_given_a_task_that_calls_itself_when_it_ran_then_the_buffer_went_along(shared):
    handle = shared.call("step", 0)
    rows = shared.ledger.wait("step", count=4, chain=handle["id"])
    assert rows[-1]["seen"] == [0, 1, 2, 3]


def test_given_a_changed_at_when_it_calls_itself_then_only_the_next_step_waits(shared):
    handle = shared.call("step", 0, 0.6)
    rows = shared.ledger.wait("step", count=4, chain=handle["id"])
    gaps = [b["time"] - a["time"] for a, b in itertools.pairwise(rows)]
    assert 0.6 <= gaps[0] < 1.6
    assert max(gaps[1:]) < 0.5


def test_given_a_changed_retry_count_when_it_fails_then_that_many_are_left(shared):
    handle = shared.call("wants_more")
    shared.wait_letter(handle["id"])
    rows = shared.ledger.rows("ran", id=handle["id"])
    assert [row["left"] for row in rows] == [2, 3, 2, 1]


def test_given_a_changed_retry_timeout_when_it_fails_then_that_is_waited(shared):
    handle = shared.call("wants_sooner")
    shared.wait_letter(handle["id"], timeout=3.0)
    assert len(shared.ledger.rows("ran", id=handle["id"])) == 2


def test_given_a_kill_in_the_middle_when_it_runs_again_then_the_buffer_is_as_at_its_start(uwsgi):
    server = uwsgi(APP)
    server.call("held", 1)
    server.ledger.wait("held")
    server.kill(*server.pids("spooler"))
    rows = server.ledger.wait("held", count=2)
    server.touch("go")
    assert [row["before"] for row in rows] == [{}, {}]


def test_given_runtime_when_it_calls_itself_then_it_recurses_in_place_with_its_buffer(shared):
    shared.call("recursive", 5)
    rows = shared.ledger.rows("inline")
    assert [(row["number"], row["n"]) for row in rows] == [
        (5, 1),
        (4, 2),
        (3, 3),
        (2, 4),
        (1, 5),
        (0, 6),
    ]
