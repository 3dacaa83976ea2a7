"""A task whose process dies runs again, a bounded number of times; a reload counts nothing."""

from __future__ import annotations

import signal

import pytest

APP = """
import ctypes, os, signal, sys, time
from uwsgi_tasks import get_current_task, task, TaskExecutor

def tell(event, **fields):
    this = get_current_task()
    note(event, id=this.id, attempt=this.attempt, again=this.redelivered, crashes=this.crashes,
         interruptions=this.interruptions, **fields)

@task(executor=TaskExecutor.SPOOLER)
def dies(how):
    tell("started")
    if how == "exit":
        os._exit(1)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)

@task(executor=TaskExecutor.SPOOLER, retry_count=3)
def dies_once():
    tell("started")
    if not get_current_task().crashes:
        os.kill(os.getpid(), signal.SIGKILL)

@task(executor=TaskExecutor.SPOOLER)
def good(number):
    note("good", number=number)

@task(executor=TaskExecutor.SPOOLER)
def held():
    tell("started")
    wait_for_file("go")
    note("ended")

class Deadly:
    def __reduce__(self):
        return (os._exit, (1,))

def call_deadly():
    return good(Deadly())

@task(executor=TaskExecutor.MULE)
def mule_dies():
    tell("started")
    os.kill(os.getpid(), signal.SIGKILL)

@task(executor=TaskExecutor.MULE)
def mule_held():
    tell("started")
    wait_for_file("go")
    note("ended")
"""


@pytest.mark.parametrize("how", ["kill", "exit", "segfault"])
def test_given_a_task_that_kills_its_process_when_it_ran_three_times_then_it_is_dead(uwsgi, how):
    server = uwsgi(APP)
    handle = server.call("dies", how)
    letter = server.wait_letter(handle["id"], timeout=15)
    rows = server.ledger.rows("started")
    assert [(row["attempt"], row["crashes"]) for row in rows] == [(1, 0), (1, 1), (1, 2)]
    assert rows[1]["time"] - rows[0]["time"] < 2
    assert letter["reason"] == "its process died 3 times (max_crashes=3)"
    assert [found["pid"] for found in letter["attempts"]] == [row["pid"] for row in rows]
    server.wait_empty()


def test_given_a_task_that_dies_once_when_it_runs_again_then_it_knows_and_is_ok(uwsgi):
    server = uwsgi(APP)
    server.call("dies_once")
    rows = server.ledger.wait("started", count=2)
    assert [(row["attempt"], row["again"]) for row in rows] == [(1, False), (1, True)]
    server.wait_empty()
    assert not server.letters()


def test_given_arguments_that_kill_when_loaded_then_they_are_dead_after_three_times(uwsgi):
    server = uwsgi(APP)
    handle = server.eval("call_deadly()")
    assert "max_crashes=3" in server.wait_letter(handle["id"], timeout=15)["reason"]


def test_given_two_poisoned_tasks_before_fifty_good_ones_then_all_good_ones_run(uwsgi):
    server = uwsgi(APP, "spooler-ordered = true")
    server.freeze()
    handles = [server.call("dies", "kill"), server.call("dies", "exit")]
    server.eval("[good(n) for n in range(50)] and None")
    server.thaw()
    rows = server.ledger.wait("good", count=50, timeout=20)
    assert {row["number"] for row in rows} == set(range(50))
    for handle in handles:
        server.wait_letter(handle["id"], timeout=20)


@pytest.mark.parametrize("how", ["reload", "stop", "kill"])
def test_given_a_task_in_hand_when_the_server_goes_then_it_tells_a_stop_from_a_crash(uwsgi, how):
    server = uwsgi(APP)
    server.call("held")
    server.ledger.wait_one("started")
    if how == "reload":
        server.reload()
    elif how == "stop":
        server.restart()
    else:
        server.kill_everything()
        server.start_again()
    row = server.ledger.wait("started", count=2)[1]
    server.touch("go")
    server.ledger.wait_one("ended")
    crashed = int(how == "kill")
    assert (row["crashes"], row["interruptions"], row["again"]) == (crashed, 1 - crashed, True)


def test_given_a_mule_task_that_dies_then_it_runs_again_and_is_dead_at_last(uwsgi):
    server = uwsgi(APP, "mule = true")
    handle = server.call("mule_dies")
    letter = server.wait_letter(handle["id"], timeout=20)
    assert len(server.ledger.rows("started")) == 3
    assert "max_crashes=3" in letter["reason"]


def test_given_a_mule_in_a_task_when_the_server_reloads_then_it_runs_again(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("mule_held")
    server.ledger.wait_one("started")
    server.reload()
    row = server.ledger.wait("started", count=2)[1]
    server.touch("go")
    server.ledger.wait_one("ended")
    assert (row["crashes"], row["interruptions"]) == (0, 1)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_given_a_spooler_that_is_told_to_end_then_its_task_was_interrupted(uwsgi, sig):
    server = uwsgi(APP)
    server.call("held")
    first = server.ledger.wait_one("started")
    server.kill(first["pid"], sig)
    row = server.ledger.wait("started", count=2)[1]
    server.touch("go")
    server.ledger.wait_one("ended")
    assert (row["crashes"], row["interruptions"]) == (0, 1)
