"""max_tasks and max_rss: a process ends in order, and no task is lost or run twice for it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.ledger import wait_until

APP = """
import os
from uwsgi_tasks import TaskExecutor, control, get_current_task, task

HOARD = []

@task
def ran(number=0):
    this = get_current_task()
    note("ran", number=number, again=this.redelivered, place=place())

@task
def hoards(megabytes):
    HOARD.append(b"x" * (megabytes << 20))
    note("hoarded")

@task
def holder():
    note("held")
    wait_for_file("go")

@task(retry_count=2)
def fails(number=0):
    note("failed", number=number)
    raise KeyError(number)

def call_many(task, executor, count):
    for number in range(count):
        task.options(executor=executor)(number)
"""
KINDS = {"SPOOLER": "spooler", "MULE": "mule"}
both = pytest.mark.parametrize("executor", KINDS)


def call(server, name, executor, *args):
    return server.eval(f"{name}.options(executor=executor)(*args)", executor=executor, args=args)


def nothing_came_twice(server):
    """Tell whether no process ended between a task's end and the removal of its file."""
    counted = server.eval("control.counters()")
    wrong = ("refused", "passed_over", "crashed", "interrupted")
    return not any(counted[name] for name in wrong) and not server.letters()


@both
def test_given_max_tasks_when_that_many_ran_then_the_idle_process_ends_and_another_takes_over(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true", "set-ph = tasks-max-tasks=2")
    for number in range(6):
        call(server, "ran", executor, number)
        pid = server.ledger.wait_one("ran", number=number, timeout=5)["pid"]
        if number % 2:
            wait_until(lambda gone=pid: gone not in server.pids(KINDS[executor]), timeout=5)
    rows = server.ledger.rows("ran")
    pids = [row["pid"] for row in rows]
    assert [pids[0], pids[2], pids[4]] == [pids[1], pids[3], pids[5]]
    assert len(set(pids)) == 3
    assert nothing_came_twice(server)


def test_given_max_tasks_when_hundreds_wait_then_each_runs_once_and_no_process_runs_more(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "set-ph = tasks-max-tasks=60")
    server.freeze()
    server.eval("call_many(ran, TaskExecutor.SPOOLER, 400)")
    server.thaw()
    rows = server.ledger.wait("ran", count=400, timeout=30)
    server.wait_empty()
    assert sorted(row["number"] for row in rows) == list(range(400))
    assert not any(row["again"] for row in rows)
    per_process = Counter(row["pid"] for row in rows)
    assert max(per_process.values()) <= 60
    assert len(per_process) >= 7
    assert nothing_came_twice(server)


def test_given_max_tasks_one_when_tasks_retry_then_each_attempt_has_a_process_of_its_own(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-max-tasks=1")
    handle = call(server, "fails", "SPOOLER")
    letter = server.wait_letter(handle["id"])
    rows = server.ledger.rows("failed")
    assert len({row["pid"] for row in rows}) == 2
    assert [row["pid"] for row in letter["attempts"]] == [row["pid"] for row in rows]
    server.wait_empty()
    assert server.eval("control.counters()['crashed']") == 0


def test_given_max_tasks_when_a_mules_queue_is_full_of_them_then_none_is_lost(uwsgi):
    server = uwsgi(APP, "mule = true", "set-ph = tasks-max-tasks=40")
    call(server, "holder", "MULE")
    server.ledger.wait("held")
    server.eval("call_many(ran, TaskExecutor.MULE, 150)")
    server.touch("go")
    rows = server.ledger.wait("ran", count=150, timeout=20)
    assert sorted(row["number"] for row in rows) == list(range(150))
    assert {row["place"] for row in rows} == {"mule1"}
    assert max(Counter(row["pid"] for row in rows).values()) <= 40
    assert nothing_came_twice(server)


@both
def test_given_max_rss_when_a_task_leaves_more_then_the_next_one_has_a_fresh_process(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true", "set-ph = tasks-max-rss=150M")
    call(server, "hoards", executor, 1)
    server.ledger.wait("hoarded")
    call(server, "hoards", executor, 200)
    first, second = server.ledger.wait("hoarded", count=2)
    call(server, "ran", executor)
    ran = server.ledger.wait_one("ran")
    assert first["pid"] == second["pid"] != ran["pid"]
    server.wait_empty()
    assert nothing_came_twice(server)


def test_given_another_librarys_messages_when_a_process_has_to_end_then_theirs_run_once(uwsgi):
    source = (
        "import uwsgi\n"
        "def theirs(env):\n"
        "    note('theirs', number=int(env[b'number']))\n"
        "    __import__('time').sleep(0.01)\n"
        "    note('theirs ended', number=int(env[b'number']))\n"
        "    return uwsgi.SPOOL_OK\n"
        "uwsgi.spooler = theirs\n"
        "def spool_theirs(count):\n"
        "    for number in range(count):\n"
        "        uwsgi.spool({b'number': str(number).encode()})\n"
    )
    server = uwsgi(source + APP, "set-ph = tasks-max-tasks=1", "spooler-ordered = true")
    server.freeze()
    call(server, "ran", "SPOOLER")
    server.eval("spool_theirs(100)")
    server.thaw()
    server.ledger.wait("theirs ended", count=100)
    server.wait_empty()
    rows = server.ledger.rows("theirs")
    assert sorted(row["number"] for row in rows) == list(range(100))
