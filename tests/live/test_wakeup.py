"""How soon a task starts: with the default spooler-frequency of 30 s, nothing waits for it."""

from __future__ import annotations

import itertools

import pytest

SOON_S = 0.5
APP = """
import time
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def blocker(name="go"):
    note("blocked", name=name)
    wait_for_file(name)
    note("ended", name=name)

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag)

@task(executor=TaskExecutor.SPOOLER)
def chain(left):
    note("ran", left=left)
    if left:
        chain(left - 1)

@task(executor=TaskExecutor.SPOOLER)
def slow(number):
    time.sleep(0.05)
    note("ran", number=number)
"""
ORDERS = pytest.mark.parametrize(
    "lines", [[], ["spooler-ordered = true"]], ids=["plain", "ordered"]
)


def test_given_an_idle_spooler_when_called_then_it_runs_at_once(uwsgi):
    server = uwsgi(APP)
    server.call("ran", "warm")
    server.ledger.wait("ran", tag="warm")
    called = server.eval("(time.time(), ran('now'))")[0]
    assert server.ledger.wait_one("ran", tag="now")["time"] - called < SOON_S


@ORDERS
def test_given_the_only_spooler_is_busy_when_called_then_it_runs_right_when_that_is_free(
    uwsgi, lines
):
    server = uwsgi(APP, *lines)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.call("ran")
    server.touch("go")
    ended = server.ledger.wait_one("ended")["time"]
    assert server.ledger.wait_one("ran")["time"] - ended < SOON_S


def test_given_all_spoolers_are_busy_when_called_then_it_runs_right_when_one_is_free(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    server.call("blocker", "one")
    server.call("blocker", "two")
    server.ledger.wait("blocked", count=2)
    server.call("ran")
    server.touch("two")
    ended = server.ledger.wait_one("ended")["time"]
    row = server.ledger.wait_one("ran")
    server.touch("one")
    assert row["time"] - ended < SOON_S


@ORDERS
def test_given_tasks_that_call_the_next_when_run_then_no_step_waits(uwsgi, lines):
    server = uwsgi(APP, *lines)
    server.call("chain", 10)
    rows = server.ledger.wait("ran", count=11, timeout=5.0)
    assert rows[-1]["time"] - rows[0]["time"] < 10 * SOON_S


def test_given_tasks_that_arrive_while_others_run_when_all_ran_then_there_was_no_gap(uwsgi):
    server = uwsgi(APP)
    server.eval("[(slow(n), time.sleep(0.02)) for n in range(30)] and None")
    rows = server.ledger.wait("ran", count=30, timeout=8.0)
    gaps = [b["time"] - a["time"] for a, b in itertools.pairwise(rows)]
    assert max(gaps) < SOON_S


def test_given_a_spooler_killed_in_a_task_when_the_next_is_called_then_it_isnt_forgotten(uwsgi):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.kill(*server.pids("spooler"))
    server.touch("go")
    server.ledger.wait("ended")
    server.call("ran")
    server.ledger.wait_one("ran", timeout=3.0)


def test_given_a_task_from_outside_the_server_when_written_then_it_runs_at_once(uwsgi, shell):
    server = uwsgi(APP)
    called = shell(server, "import app, time; app.ran('outside'); print(time.time())")
    assert server.ledger.wait_one("ran", tag="outside")["time"] - float(called) < SOON_S


def test_given_a_delayed_task_from_outside_when_due_then_it_runs_in_time(uwsgi, shell):
    server = uwsgi(APP)
    code = "import app, time; t = time.time() + 1; app.ran.options(at=t)('outside'); print(t)"
    due = float(shell(server, code))
    assert 0 <= server.ledger.wait_one("ran", tag="outside")["time"] - due < 1.0
