"""Running again: by a returned code, by RetryTaskException, and after an uncaught exception."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from tests.support.ledger import wait_until

APP = """
import os, sys, time
from datetime import timedelta
from uwsgi_tasks import (task, TaskExecutor, SPOOL_OK, SPOOL_RETRY, RetryTaskException,
                         get_current_task)

SPOOLER = TaskExecutor.SPOOLER

def attempt(**fields):
    current = get_current_task()
    note("attempt", number=current.attempt, id=current.id, place=place(), **fields)
    return current.attempt

@task(executor=SPOOLER, retry_count=3)
def returns_retry(ok_at=99):
    return SPOOL_OK if attempt() >= ok_at else SPOOL_RETRY

@task(executor=SPOOLER, retry_count=3)
def fails(kind="KeyError", ok_at=99):
    if attempt() < ok_at:
        raise {"KeyError": KeyError, "ValueError": ValueError, "SystemExit": SystemExit}[kind]("no")

@task(executor=SPOOLER)
def fails_once():
    attempt()
    raise KeyError("no")

@task(executor=SPOOLER, retry_count=2)
def process_purchase(order_id):
    try:
        attempt()
        raise OSError(order_id)
    except Exception:
        raise RetryTaskException(timeout=0.4)

@task(executor=SPOOLER, retry_timeout=30)
def asks_again(count=None, timeout=None, until=99):
    if attempt() < until:
        raise RetryTaskException(count=count, timeout=timeout)

@task(executor=SPOOLER, retry_count=4)
def counts_in_buffer():
    buffer = get_current_task().buffer
    buffer["seen"] = buffer.get("seen", 0) + 1
    attempt(seen=buffer["seen"])
    raise KeyError("again")

@task(executor=TaskExecutor.RUNTIME, retry_count=3, retry_timeout=30)
def inline(ok_at=99):
    if attempt() < ok_at:
        raise KeyError("inline")
    return "done"

@task(executor=SPOOLER, retry_count=15, retry_timeout=0.05)
def chain():
    attempt()
    time.sleep(0.1)
    raise KeyError("again")
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP)


def attempts_of(server, handle, timeout=15.0):
    """Return the attempts of a call that ends as a dead letter."""
    letter = server.wait_letter(handle["id"], timeout)
    rows = server.ledger.rows("attempt", id=handle["id"])
    assert len(letter["attempts"]) == min(len(rows), 20)
    return rows


def gaps(rows):
    return [b["time"] - a["time"] for a, b in itertools.pairwise(rows)]


@pytest.mark.parametrize("task", ["returns_retry", "fails", "counts_in_buffer"])
def test_given_a_retry_count_when_it_never_succeeds_then_it_runs_as_often_in_all(shared, task):
    rows = attempts_of(shared, shared.call(task))
    expected = 4 if task == "counts_in_buffer" else 3
    assert [row["number"] for row in rows] == list(range(1, expected + 1))


@pytest.mark.parametrize("task", ["returns_retry", "fails"])
def test_given_a_retry_count_when_the_second_attempt_succeeds_then_it_is_over(shared, task):
    handle = shared.eval(f"{task}(ok_at=2)")
    shared.ledger.wait("attempt", id=handle["id"], count=2)
    shared.wait_status(handle, "ok")
    assert len(shared.ledger.rows("attempt", id=handle["id"])) == 2
    assert handle["id"] not in shared.letters()


def test_given_no_retry_count_when_it_raises_then_it_is_dead_at_once_with_its_traceback(shared):
    handle = shared.call("fails_once")
    letter = shared.wait_letter(handle["id"])
    assert len(shared.ledger.rows("attempt", id=handle["id"])) == 1
    assert "in fails_once" in letter["traceback"]


def test_given_one_execution_when_it_raises_then_it_runs_once(shared):
    rows = attempts_of(shared, shared.eval("fails.options(retry_count=1)()"))
    assert len(rows) == 1


def test_given_the_readme_purchase_when_it_fails_then_it_runs_twice_with_the_wait(shared):
    rows = attempts_of(shared, shared.call("process_purchase", 7))
    assert len(rows) == 2
    assert 0.4 <= gaps(rows)[0] < 1.4


@pytest.mark.parametrize("wait", ["0.4", "timedelta(milliseconds=400)"])
def test_given_a_retry_timeout_when_it_fails_then_attempts_are_that_far_apart(shared, wait):
    rows = attempts_of(shared, shared.eval(f"fails.options(retry_timeout={wait})()"))
    assert all(0.4 <= gap < 1.4 for gap in gaps(rows))


def test_given_no_retry_timeout_when_it_fails_then_it_runs_again_at_once(shared):
    rows = attempts_of(shared, shared.call("fails"))
    assert max(gaps(rows)) < 0.5


def test_given_a_backoff_when_it_fails_then_the_waits_grow_up_to_the_ceiling(shared):
    code = (
        "fails.options(retry_count=4, retry_timeout=0.1, retry_backoff=4, retry_max_timeout=0.6)()"
    )
    found = gaps(attempts_of(shared, shared.eval(code)))
    assert [low <= gap < low + 0.5 for gap, low in zip(found, (0.1, 0.4, 0.6), strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ("retry_on=(KeyError,)", "KeyError", 3),
        ("retry_on=(KeyError,)", "ValueError", 1),
        ("retry_on=LookupError", "KeyError", 3),
        ("no_retry_on=(ValueError,)", "ValueError", 1),
        ("no_retry_on=(ValueError,)", "KeyError", 3),
    ],
)
def test_given_retry_on_when_it_raises_then_only_those_are_retried(uwsgi, options, kind, expected):
    source = APP + (
        f"@task(executor=SPOOLER, retry_count=3, {options})\n"
        "def narrow(kind):\n"
        "    attempt()\n"
        "    raise {'KeyError': KeyError, 'ValueError': ValueError}[kind]()\n"
    )
    server = uwsgi(source)
    assert len(attempts_of(server, server.call("narrow", kind))) == expected


def test_given_a_count_in_the_exception_when_max_attempts_is_reached_then_it_is_dead(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-max-attempts=6")
    handle = server.eval("asks_again(count=5, timeout=0)")
    assert len(attempts_of(server, handle)) == 6
    assert "max_attempts" in server.wait_letter(handle["id"])["reason"]


def test_given_a_count_in_the_exception_when_raised_then_it_replaces_what_is_left(shared):
    handle = shared.eval("asks_again(count=5, timeout=0, until=3)")
    shared.ledger.wait("attempt", id=handle["id"], count=3)
    shared.wait_status(handle, "ok")
    assert len(shared.ledger.rows("attempt", id=handle["id"])) == 3


def test_given_a_count_of_zero_when_raised_then_it_is_not_run_again(shared):
    assert len(attempts_of(shared, shared.eval("asks_again(count=0)"))) == 1


def test_given_a_timeout_of_zero_when_raised_then_it_replaces_the_tasks_wait(shared):
    code = "asks_again.options(retry_count=3)(timeout=0)"
    rows = attempts_of(shared, shared.eval(code))
    assert (len(rows), max(gaps(rows)) < 0.5) == (3, True)


def test_given_attempts_when_it_is_retried_then_id_and_buffer_stay(shared):
    handle = shared.call("counts_in_buffer")
    rows = attempts_of(shared, handle)
    assert [(row["id"], row["seen"]) for row in rows] == [(handle["id"], n) for n in (1, 2, 3, 4)]


def test_given_sys_exit_in_a_task_when_run_then_it_is_a_failure_and_the_spooler_lives(shared):
    spooler = shared.pids("spooler")
    handle = shared.call("fails", "SystemExit")
    shared.wait_letter(handle["id"])
    assert shared.pids("spooler") == spooler


def test_given_a_retried_priority_task_when_it_fails_then_it_runs_as_often_in_all(shared):
    assert len(attempts_of(shared, shared.eval("fails.options(priority=5)()"))) == 3


def test_given_a_delayed_task_when_it_fails_then_its_retry_is_not_delayed_again(shared):
    rows = attempts_of(shared, shared.eval("fails.options(at=timedelta(seconds=1))()"))
    assert max(gaps(rows)) < 0.5


def test_given_runtime_when_it_fails_twice_then_the_third_attempt_is_made_in_place(shared):
    assert shared.eval("inline(ok_at=3).result()") == "done"


def test_given_per_call_retries_of_a_task_without_any_when_it_fails_then_they_hold(shared):
    assert len(attempts_of(shared, shared.eval("fails_once.options(retry_count=2)()"))) == 2


def test_given_two_spooler_processes_when_tasks_are_retried_then_no_attempt_runs_twice(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    handles = server.eval("[fails() for _ in range(20)]")
    wait_until(lambda: len(server.letters()) == 20, 20.0, "all are dead letters")
    for handle in handles:
        rows = server.ledger.rows("attempt", id=handle["id"])
        assert [row["number"] for row in rows] == [1, 2, 3]


@pytest.mark.slow
def test_given_kills_during_fifteen_attempts_when_it_is_dead_then_the_chain_did_not_multiply(uwsgi):
    server = uwsgi(APP, env={"UWSGITASKS_MAX_CRASHES": "100"})
    handle = server.call("chain")
    kills = 0
    while kills < 4 and not server.letters():  # each crash waits twice as long as the one before
        seen = len(server.ledger.rows("attempt"))
        wait_until(lambda n=seen: len(server.ledger.rows("attempt")) > n or server.letters(), 20.0)
        time.sleep(random.uniform(0, 0.15))  # waits for nothing: in, after or between attempts
        for pid in server.pids("spooler"):
            server.kill(pid)
            kills += 1
    server.wait_letter(handle["id"], timeout=30.0)
    server.wait_empty()
    numbers = [row["number"] for row in server.ledger.rows("attempt")]
    assert set(numbers) == set(range(1, 16))
    assert len(numbers) <= 15 + kills
