"""Delayed, prioritised and retried tasks when processes die: nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from tests.support.ledger import wait_until

APP = """
import time
from uwsgi_tasks import task, TaskExecutor, get_current_task

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag)

@task(executor=TaskExecutor.SPOOLER, retry_count=2)
def held(tag="x"):
    note("started", tag=tag, attempt=get_current_task().attempt)
    wait_for_file("go")
    note("ended", tag=tag)

@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=0.1)
def flaky(number):
    note("flaky", number=number, attempt=get_current_task().attempt)
    if get_current_task().attempt < 3:
        raise KeyError(number)

@task(executor=TaskExecutor.MULE)
def muled(tag="x"):
    note("ran", tag=tag)
"""


@pytest.mark.parametrize(
    "options", ["at=time.time() + 0.2", "priority=3", "priority=3, at=time.time() + 0.2"]
)
def test_given_a_task_that_waited_when_its_spooler_is_killed_then_it_runs_again_and_ends_once(
    uwsgi, options
):
    server = uwsgi(APP)
    handle = server.eval(f"held.options({options})()")
    server.kill(server.ledger.wait_one("started")["pid"])
    rows = server.ledger.wait("started", count=2)
    server.touch("go")
    server.wait_status(handle, "ok")
    assert [row["attempt"] for row in rows] == [1, 1]
    assert len(server.ledger.rows("ended")) == 1


def test_given_two_spoolers_when_the_timekeepers_is_killed_then_delayed_tasks_run_in_time(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    due = server.eval("(due := time.time() + 1.2, ran.options(at=due)())")[0]
    server.kill(server.pids("spooler")[0])
    assert 0 <= server.ledger.wait_one("ran")["time"] - due < 1.0


def test_given_two_spoolers_when_one_hangs_in_a_task_then_delayed_tasks_run_in_time(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    server.call("held")
    server.ledger.wait("started")
    due = server.eval("(due := time.time() + 0.5, ran.options(at=due)())")[0]
    row = server.ledger.wait_one("ran")
    server.touch("go")
    assert 0 <= row["time"] - due < 1.0


def test_given_one_mule_when_it_is_killed_then_its_delayed_tasks_run_all_the_same(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.eval("muled.options(at=time.time() + 1.0)()")
    server.kill(*server.pids("mule"))
    server.ledger.wait_one("ran", timeout=5.0)


def test_given_many_tasks_due_at_once_when_due_then_each_runs_once(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("(due := time.time() + 1.5, [ran.options(at=due)(n) for n in range(1000)])[:0]")
    rows = server.ledger.wait("ran", count=1000, timeout=20.0)
    server.wait_empty()
    assert Counter(row["tag"] for row in rows) == Counter(range(1000))


def test_given_a_swap_that_was_killed_half_way_when_started_again_then_the_task_runs(uwsgi):
    server = uwsgi(APP)
    server.freeze()
    server.eval("[ran.options(priority=p)(str(p)) for p in (5, 6)] and None")
    (path,) = server.spool_files()
    path.unlink()  # as a swap does just before it commits
    server.kill_everything()
    server.start_again()
    rows = server.ledger.wait("ran", count=2)
    assert sorted(row["tag"] for row in rows) == ["5", "6"]


@pytest.mark.slow
def test_given_retries_and_delays_when_everything_is_killed_amid_them_then_all_end_once(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("[flaky(n) for n in range(100)] and None")
    server.eval("[flaky.options(priority=n % 5)(n) for n in range(100, 150)] and None")
    server.eval("[flaky.options(at=time.time() + 0.3)(n) for n in range(150, 200)] and None")
    for step in range(1, 4):
        wait_until(lambda s=step: len(server.ledger.rows("flaky")) > s * 120, 20.0)
        server.kill_everything()
        server.start_again()
    third = {"attempt": 3}
    wait_until(
        lambda: len({r["number"] for r in server.ledger.rows("flaky", **third)}) == 200, 30.0
    )
    server.wait_empty()
    ends = Counter(row["number"] for row in server.ledger.rows("flaky"))
    assert all(3 <= times <= 6 for times in ends.values())
    assert sum(ends.values()) <= 600 + 2 * 3
    assert server.letters() == {}


@pytest.mark.slow
def test_given_spoolers_killed_over_and_over_when_all_is_quiet_then_nothing_waits_for_ever(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("[flaky.options(priority=n % 5)(n) for n in range(150)] and None")
    for step in range(1, 5):
        wait_until(lambda s=step: len(server.ledger.rows("flaky")) > s * 60, 20.0)
        for pid in server.pids("spooler"):
            os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: len({r["number"] for r in server.ledger.rows("flaky", attempt=3)}) == 150, 30.0
    )
    server.wait_empty()
    assert len(server.ledger.rows("flaky")) <= 450 + 4 * 2
