"""How long a task may run, and how late it may start: soft_timeout, timeout, expires."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os, signal, threading, time
from datetime import datetime, timedelta
from uwsgi_tasks import SoftTimeout, TaskExecutor, control, dead, get_current_task, task
from uwsgi_tasks import RetryTaskException

def tell(event, **fields):
    this = get_current_task()
    note(event, id=this.id, attempt=this.attempt, crashes=this.crashes, place=place(), **fields)

@task(soft_timeout=0.3)
def cleans_up():
    tell("started")
    try:
        time.sleep(30)
    finally:
        tell("cleaned")

@task(soft_timeout=0.3)
def catches():
    tell("started")
    try:
        while True:
            pass
    except SoftTimeout as error:
        tell("caught", text=str(error))

@task(soft_timeout=0.2, retry_count=3)
def tries_again():
    tell("started")
    time.sleep(30)

@task(soft_timeout=0.2, retry_count=3, no_retry_on=SoftTimeout)
def tries_once():
    tell("started")
    time.sleep(30)

@task(soft_timeout=0.3, timeout=1, max_crashes=2)
def hangs():
    tell("started")
    while True:
        try:
            time.sleep(30)
        except SoftTimeout:
            tell("ignored")

@task(timeout=1, max_crashes=1)
def hangs_once():
    tell("started")
    time.sleep(30)

@task(timeout=1, soft_timeout=0.5)
def is_quick(how="returns"):
    tell("started")
    if how == "raises":
        raise KeyError(how)

@task
def takes(seconds):
    tell("started")
    time.sleep(seconds)
    tell("ended")

@task(timeout=0.3)
def would_kill_its_caller():
    tell("started")
    time.sleep(30)

@task(soft_timeout=0.1)
def outlives_its_limit():
    time.sleep(0.3)
    return "ended"

def in_a_thread(times=2):
    results = []
    def run():
        results.append(outlives_its_limit.options(executor=TaskExecutor.RUNTIME)().result())
    for _ in range(times):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    return results

@task(soft_timeout=0.4, executor=TaskExecutor.SPOOLER)
def outer(**inner):
    tell("started")
    try:
        takes.options(executor=TaskExecutor.RUNTIME, **inner)(1.5)
    except SoftTimeout as error:
        tell("inner", text=str(error))
        if "0.4" in str(error):
            raise
        time.sleep(30)

@task
def holder(name="go"):
    tell("held")
    wait_for_file(name)

@task
def late(tag="x"):
    tell("ran", tag=tag)

@task(retry_count=2, expires=0.8)
def fails():
    tell("failed")
    raise RetryTaskException(timeout=1.0)
"""
PLACES = {"SPOOLER": "spooler", "MULE": "mule1"}
both = pytest.mark.parametrize("executor", PLACES)


def call(server, name, executor, *args, **options):
    """Call a task on an executor, with more options of the call."""
    code = f"{name}.options(executor=executor, **options)(*args)"
    return server.eval(code, executor=executor, args=args, options=options)


# soft_timeout


@both
def test_given_a_soft_timeout_when_reached_then_the_task_cleans_up_and_is_dead(uwsgi, executor):
    server = uwsgi(APP, "mule = true")
    handle = call(server, "cleans_up", executor)
    started = server.ledger.wait_one("started")
    cleaned = server.ledger.wait_one("cleaned")
    assert started["place"] == PLACES[executor]
    assert 0.2 < cleaned["time"] - started["time"] < 10
    letter = server.wait_letter(handle["id"])
    assert letter["error"] == "SoftTimeout: The task ran for 0.3 s, its soft_timeout"
    assert cleaned["pid"] in server.pids("spooler") + server.pids("mule")


@both
def test_given_a_soft_timeout_when_the_task_catches_it_then_it_is_ok(uwsgi, executor):
    server = uwsgi(APP, "mule = true")
    call(server, "catches", executor)
    server.ledger.wait_one("caught", text="The task ran for 0.3 s, its soft_timeout")
    wait_until(lambda: server.eval("control.busy()") == 0)
    server.wait_empty()
    assert server.letters() == {}
    assert len(server.ledger.rows("started")) == 1


def test_given_a_soft_timeout_on_runtime_when_reached_then_the_caller_gets_it(uwsgi):
    server = uwsgi(APP)
    worker = server.pids("worker")
    with pytest.raises(RemoteError) as caught:
        call(server, "cleans_up", "RUNTIME")
    assert "TimeoutError" in caught.value.kinds
    assert caught.value.kind == "SoftTimeout"
    assert server.ledger.wait_one("cleaned")["place"] == "worker"
    assert server.pids("worker") == worker


@both
@pytest.mark.parametrize(("name", "runs"), [("tries_again", 3), ("tries_once", 1)])
def test_given_a_soft_timeout_when_reached_then_it_is_retried_by_the_policy(
    uwsgi, executor, name, runs
):
    server = uwsgi(APP, "mule = true")
    handle = call(server, name, executor)
    letter = server.wait_letter(handle["id"])
    rows = server.ledger.rows("started")
    assert [row["attempt"] for row in rows] == list(range(1, runs + 1))
    assert [row["error"].partition(":")[0] for row in letter["attempts"]] == ["SoftTimeout"] * runs


def test_given_a_task_that_ended_before_its_soft_timeout_then_the_next_one_isnt_disturbed(uwsgi):
    server = uwsgi(APP)
    call(server, "is_quick", "SPOOLER")
    server.ledger.wait("started")
    call(server, "takes", "SPOOLER", 0.8)
    server.ledger.wait_one("ended")
    server.wait_empty()
    assert server.letters() == {}


@pytest.mark.parametrize("inner", [0.1, 20])
def test_given_a_task_that_calls_another_in_place_then_both_soft_timeouts_hold(uwsgi, inner):
    server = uwsgi(APP)
    handle = server.call("outer", soft_timeout=inner)
    first = server.ledger.wait_one("inner")
    assert first["text"] == f"The task ran for {min(inner, 0.4)} s, its soft_timeout"
    letter = server.wait_letter(handle["id"])
    assert letter["error"] == "SoftTimeout: The task ran for 0.4 s, its soft_timeout"


def test_given_a_soft_timeout_outside_the_main_thread_then_it_isnt_applied_and_one_warning_says_so(
    uwsgi,
):
    server = uwsgi(APP)
    assert server.call("in_a_thread", 2) == ["ended", "ended"]
    assert len(re.findall("soft_timeout needs the main thread", server.log())) == 1


def test_given_a_timeout_on_runtime_when_reached_then_the_caller_gets_an_exception_and_lives(uwsgi):
    server = uwsgi(APP)
    worker = server.pids("worker")
    for _ in range(2):
        with pytest.raises(RemoteError) as caught:
            call(server, "would_kill_its_caller", "RUNTIME")
        assert caught.value.kind == "SoftTimeout"
    assert server.pids("worker") == worker
    assert len(re.findall("its timeout acts as soft_timeout here", server.log())) == 1


# timeout


@both
def test_given_a_task_that_hangs_when_its_timeout_is_over_then_it_is_killed_and_bounded(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true")
    handle = call(server, "hangs", executor)
    letter = server.wait_letter(handle["id"], timeout=25)
    rows = server.ledger.rows("started")
    assert [(row["attempt"], row["crashes"]) for row in rows] == [(1, 0), (1, 1)]
    assert len(server.ledger.rows("ignored")) == 2
    assert letter["reason"] == "its process died 2 times (max_crashes=2)"
    told = "its process was killed: it ran longer than timeout=1 s"
    assert [row["error"] for row in letter["attempts"]] == [told, told]
    assert [row["pid"] for row in letter["attempts"]] == [row["pid"] for row in rows]
    assert server.eval("control.counters()['crashed']") == 2


@pytest.mark.parametrize(("quick", "hung"), [("SPOOLER", "MULE"), ("MULE", "SPOOLER")])
def test_given_tasks_that_ended_in_time_when_their_process_is_idle_then_it_isnt_killed_later(
    uwsgi, quick, hung
):
    server = uwsgi(APP, "mule = true")
    call(server, "is_quick", quick)
    call(server, "is_quick", quick, "raises")
    first, second = server.ledger.wait("started", count=2)
    handle = call(server, "hangs_once", hung)  # its end says that theirs would have come, too
    server.wait_letter(handle["id"], timeout=20)
    kind = "spooler" if quick == "SPOOLER" else "mule"
    assert {first["pid"], second["pid"]} == set(server.pids(kind))


def test_given_a_hang_under_spooler_harakiri_then_it_counts_as_crashes_and_is_bounded(uwsgi):
    server = uwsgi(APP, "spooler-harakiri = 1", "set-ph = tasks-max-crashes=2")
    handle = call(server, "takes", "SPOOLER", 30)
    letter = server.wait_letter(handle["id"], timeout=25)
    assert letter["reason"] == "its process died 2 times (max_crashes=2)"
    told = "its process was killed: it ran longer than spooler-harakiri=1 s"
    assert [row["error"] for row in letter["attempts"]] == [told, told]
    assert [row["crashes"] for row in server.ledger.rows("started")] == [0, 1]
    server.wait_empty()
    call(server, "late", "SPOOLER")
    server.ledger.wait_one("ran")


# expires


def passed(moment):
    """Wait until a moment is over."""
    wait_until(lambda: time.time() > moment, what="the moment is over")


@both
@pytest.mark.parametrize("as_datetime", [False, True])
def test_given_a_call_that_expired_when_its_turn_comes_then_it_isnt_started_and_has_a_letter(
    uwsgi, executor, as_datetime
):
    server = uwsgi(APP, "mule = true")
    call(server, "holder", executor)
    server.ledger.wait("held")
    expires = "datetime.now() + timedelta(seconds=0.3)" if as_datetime else "0.3"
    code = f"late.options(executor=executor, expires={expires})('late')"
    handle = server.eval(code, executor=executor)
    call(server, "late", executor, "in time", expires=300)
    passed(time.time() + 0.3)
    server.touch("go")
    letter = server.wait_letter(handle["id"])
    assert (letter["reason"], letter["attempts"]) == ("expired", [])
    assert server.ledger.wait_one("ran")["tag"] == "in time"
    server.wait_empty()
    server.wait_log(f"app.late {handle['id']} expired")
    assert server.status(handle) == "expired"


@both
def test_given_a_delayed_call_when_its_executor_has_no_time_until_it_expires_then_it_isnt_started(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true")
    call(server, "holder", executor)
    server.ledger.wait("held")
    due = time.time() + 0.2
    handle = call(server, "late", executor, at=due, expires=0.6)
    passed(due + 0.5)
    server.touch("go")
    assert server.wait_letter(handle["id"])["reason"] == "expired"
    assert server.ledger.rows("ran") == []


def test_given_a_delayed_call_when_the_server_is_down_until_it_expired_then_it_isnt_started(uwsgi):
    server = uwsgi(APP)
    handle = call(server, "late", "SPOOLER", at=time.time() + 0.5, expires=0.6)
    server.stop()
    passed(time.time() + 0.6)
    server.start_again()
    assert server.wait_letter(handle["id"])["reason"] == "expired"
    assert server.ledger.rows("ran") == []


@both
def test_given_a_retry_that_is_due_after_it_expires_then_it_isnt_started_again(uwsgi, executor):
    server = uwsgi(APP, "mule = true")
    handle = call(server, "fails", executor)
    letter = server.wait_letter(handle["id"])
    assert letter["reason"] == "expired"
    assert [row["attempt"] for row in letter["attempts"]] == [1]
    assert len(server.ledger.rows("failed")) == 1


def test_given_a_prioritised_call_that_expired_then_the_next_one_has_its_turn(uwsgi):
    server = uwsgi(APP)
    call(server, "holder", "SPOOLER", priority=0)
    server.ledger.wait("held")
    handle = call(server, "late", "SPOOLER", "late", priority=1, expires=0.2)
    call(server, "late", "SPOOLER", "next", priority=2)
    passed(time.time() + 0.2)
    server.touch("go")
    assert server.wait_letter(handle["id"])["reason"] == "expired"
    assert server.ledger.wait_one("ran")["tag"] == "next"


def test_given_an_expired_call_when_its_letter_is_retried_then_it_runs(uwsgi):
    server = uwsgi(APP)
    server.eval("control.pause()")
    handle = call(server, "late", "SPOOLER", expires=0.1)
    passed(time.time() + 0.1)
    server.eval("control.resume()")
    server.wait_letter(handle["id"])
    server.eval("dead.retry(ident)", ident=handle["id"])
    assert server.ledger.wait_one("ran")["id"] == handle["id"]


def test_given_an_expiry_before_at_when_called_then_it_is_refused(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        call(server, "late", "SPOOLER", at=time.time() + 60, expires=30)
    assert caught.value.kind == "OptionValueError"
    assert "expires" in str(caught.value)
    server.wait_empty()
    assert server.letters() == {}
