"""The limits of mules: sizes, and queues that are full. Nothing is dropped silently."""

from __future__ import annotations

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
from uwsgi_tasks import task, TaskExecutor, QueueFull, SPOOL_RETRY, get_current_task

@task(executor=TaskExecutor.MULE)
def small(number):
    note("ran", number=number, place=place())

@task(executor=TaskExecutor.MULE)
def big(data):
    note("ran", size=len(data), place=place())

@task(executor=TaskExecutor.MULE)
def holds_up():
    note("held")
    wait_for_file("go")

@task(executor=TaskExecutor.MULE)
def fails():
    raise KeyError("in the mule")

@task(executor=TaskExecutor.MULE, retry_count=3)
def fails_thrice(tag):
    current = get_current_task()
    note("attempt", number=current.attempt, id=current.id, place=place())
    raise KeyError("again")

def fill(count):
    '''Call as often, tell how many were taken, and whether the last one was refused.'''
    for number in range(count):
        try:
            small(number)
        except QueueFull:
            return number, True
    return count, False
"""


def test_given_a_message_over_the_mules_limit_when_there_is_a_spooler_then_it_takes_it(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.eval("big('x' * 70_000)")
    row = server.ledger.wait_one("ran")
    assert (row["size"], row["place"]) == (70_000, "spooler")


def test_given_a_message_over_the_mules_limit_when_the_spooler_takes_it_then_the_log_says_so(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.eval("big('x' * 70_000)")
    assert "65536" in server.wait_log("app.big")


def test_given_a_message_over_the_mules_limit_when_there_is_no_spooler_then_it_is_refused(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    with pytest.raises(RemoteError) as caught:
        server.eval("big('x' * 70_000)")
    assert caught.value.kind == "MessageTooBig"


def test_given_a_message_just_below_the_limit_when_called_then_the_mule_gets_it_whole(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.eval("big('x' * 64_000)")
    row = server.ledger.wait_one("ran")
    assert (row["size"], row["place"]) == (64_000, "mule1")


def test_given_a_full_mule_queue_when_there_is_a_spooler_then_every_call_runs_once(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("holds_up")
    server.ledger.wait("held")
    server.call("fill", 600)
    server.touch("go")
    rows = server.ledger.wait("ran", count=600, timeout=30)
    assert sorted(row["number"] for row in rows) == list(range(600))
    assert {row["place"] for row in rows} == {"mule1", "spooler"}


def test_given_a_full_mule_queue_when_there_is_no_spooler_then_the_caller_is_told_and_none_is_lost(
    uwsgi,
):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.call("holds_up")
    server.ledger.wait("held")
    taken, refused = server.call("fill", 600)
    server.touch("go")
    rows = server.ledger.wait("ran", count=taken)
    assert refused
    assert sorted(row["number"] for row in rows) == list(range(taken))


def test_given_a_task_that_fails_in_a_mule_when_run_then_it_is_a_dead_letter(uwsgi):
    server = uwsgi(APP, "mule = true")
    handle = server.call("fails")
    letter = server.wait_letter(handle["id"])
    assert "KeyError" in letter["error"]


def test_given_retries_in_a_mule_when_it_fails_then_it_runs_three_times_with_one_id(uwsgi):
    server = uwsgi(APP, "mule = true")
    handle = server.call("fails_thrice", "x")
    server.wait_letter(handle["id"])
    rows = server.ledger.rows("attempt")
    assert [(row["number"], row["id"], row["place"]) for row in rows] == [
        (number, handle["id"], "mule1") for number in (1, 2, 3)
    ]


def test_given_retries_with_a_wait_in_a_mule_when_it_fails_then_the_mule_isnt_held_up(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.eval("fails_thrice.options(retry_timeout=0.6)('x')")
    server.ledger.wait("attempt")
    server.call("small", 1)
    ran = server.ledger.wait_one("ran")
    rows = server.ledger.wait("attempt", count=3)
    assert ran["time"] < rows[1]["time"]


def test_given_a_delayed_task_for_a_mule_when_due_then_a_mule_runs_it_in_time(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    due = server.eval("(due := __import__('time').time() + 0.7, small.options(at=due)(1))")[0]
    row = server.ledger.wait_one("ran")
    assert (0 <= row["time"] - due < 1.0, row["place"]) == (True, "mule1")


def test_given_a_foreign_message_to_a_mule_when_read_then_the_mule_lives(uwsgi):
    server = uwsgi(APP + "import uwsgi\n", "mule = true")
    (mule,) = wait_until(lambda: server.pids("mule"))
    server.eval("uwsgi.mule_msg(b'not ours')")
    server.call("small", 1)
    assert server.ledger.wait_one("ran")["pid"] == mule
