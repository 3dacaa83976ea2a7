"""What a mule has in hand outlives it, what is queued outlives the mule; refusals are counted."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os, signal, time
from uwsgi_tasks import QueueFull, RetryTaskException, TaskExecutor, control, get_current_task, task

def tell(event, **fields):
    this = get_current_task()
    note(event, id=this.id, attempt=this.attempt, crashes=this.crashes, again=this.redelivered,
         interruptions=this.interruptions, place=place(), **fields)

@task(executor=TaskExecutor.MULE)
def holder(data="", name="go"):
    tell("held", size=len(data))
    wait_for_file(name)
    tell("ended")

@task(executor=TaskExecutor.MULE)
def ran(number=0):
    tell("ran", number=number)

@task(executor=TaskExecutor.MULE, retry_count=3)
def dies_in_its_second_attempt(data):
    tell("started", size=len(data))
    this = get_current_task()
    if this.attempt == 2 and not this.crashes:
        os.kill(os.getpid(), signal.SIGKILL)
    if this.attempt < 3:
        raise RetryTaskException()
    tell("ended")

@task(executor=TaskExecutor.MULE, max_crashes=2)
def dies():
    tell("died")
    os._exit(1)

def call_many(count):
    for number in range(count):
        ran(number)

def fill(count):
    '''Call as often; tell how many were taken.'''
    taken = 0
    for number in range(count):
        try:
            ran.options(strict=True)(number)
            taken += 1
        except QueueFull:
            pass
    return taken
"""
COUNT = 20


@pytest.mark.parametrize("how", ["kill", "term"])
def test_given_a_mule_that_dies_in_a_task_then_that_runs_again_and_what_is_queued_once(uwsgi, how):
    server = uwsgi(APP, "mule = true")
    handle = server.call("holder")
    first = server.ledger.wait_one("held")
    server.call("call_many", COUNT)
    server.kill(first["pid"], 9 if how == "kill" else 15)
    second = server.ledger.wait("held", count=2)[1]
    assert (second["id"], second["again"], second["attempt"]) == (handle["id"], True, 1)
    crashed = int(how == "kill")
    assert (second["crashes"], second["interruptions"]) == (crashed, 1 - crashed)
    server.touch("go")
    server.ledger.wait_one("ended")
    rows = server.ledger.wait("ran", count=COUNT)
    assert sorted(row["number"] for row in rows) == list(range(COUNT))
    assert {row["place"] for row in rows} == {"mule1"}


def test_given_everything_killed_when_started_again_then_what_the_mule_had_in_hand_runs(uwsgi):
    server = uwsgi(APP, "mule = true")
    handle = server.eval("holder('x' * 64_000)")
    server.ledger.wait_one("held")
    server.kill_everything()
    server.start_again()
    second = server.ledger.wait("held", count=2)[1]
    assert (second["id"], second["size"], second["crashes"]) == (handle["id"], 64_000, 1)
    server.touch("go")
    server.ledger.wait_one("ended")


def test_given_a_killed_master_when_its_worker_ends_in_order_then_the_mules_task_crashed(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("holder")
    server.ledger.wait_one("held")
    workers = server.pids("worker")
    server.kill(server.master)
    wait_until(lambda: not set(workers) & set(server.all_pids()), what="the worker has ended")
    server.kill_everything()
    server.start_again()
    second = server.ledger.wait("held", count=2)[1]
    assert (second["crashes"], second["interruptions"]) == (1, 0)
    server.touch("go")
    server.ledger.wait_one("ended")


def test_given_two_mules_that_die_in_tasks_then_each_runs_its_own_again(uwsgi):
    server = uwsgi(APP, "mules = 2", "farm = both:1,2")
    handles = [server.eval(f"holder.options(mule={number})('{number}')") for number in (1, 2)]
    for row in server.ledger.wait("held", count=2):
        server.kill(row["pid"])
    rows = server.ledger.wait("held", count=4)[2:]
    assert {(row["id"], row["place"]) for row in rows} == {
        (handles[0]["id"], "mule1"),
        (handles[1]["id"], "mule2"),
    }
    server.touch("go")
    server.ledger.wait("ended", count=2)


def test_given_a_retry_in_the_mule_that_dies_then_that_attempt_runs_again_with_its_arguments(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.eval("dies_in_its_second_attempt('x' * 30_000)")
    server.ledger.wait_one("ended")
    rows = server.ledger.rows("started")
    assert [(row["attempt"], row["crashes"]) for row in rows] == [(1, 0), (2, 0), (2, 1), (3, 1)]
    assert {row["size"] for row in rows} == {30_000}


def test_given_a_task_that_kills_its_mule_when_it_did_so_often_enough_then_it_is_dead(uwsgi):
    server = uwsgi(APP, "mule = true")
    handle = server.call("dies")
    server.call("call_many", COUNT)
    letter = server.wait_letter(handle["id"])
    assert letter["reason"] == "its process died 2 times (max_crashes=2)"
    assert len(server.ledger.rows("died")) == 2
    rows = server.ledger.wait("ran", count=COUNT)
    assert sorted(row["number"] for row in rows) == list(range(COUNT))


@pytest.mark.parametrize("target", ["mule=1", "mule='both'"])
def test_given_a_task_for_a_mule_that_is_gone_when_due_then_the_spooler_runs_it_like_others(
    uwsgi, target
):
    server = uwsgi(APP, "mule = true", "farm = both:1")
    server.call("holder")
    server.ledger.wait("held")
    handle = server.eval(f"ran.options({target}, at=time.time() + 0.3)(1)")
    server.kill_everything()
    ini = server.dir / "uwsgi.ini"
    kept = [x for x in ini.read_text().splitlines() if not x.startswith(("mule", "farm"))]
    ini.write_text("\n".join(kept) + "\n")
    server.start_again()
    server.ledger.wait_one("held", place="spooler", crashes=1)  # what the mule had in hand
    server.touch("go")
    server.ledger.wait_one("ended")
    server.eval("ran.options(executor=TaskExecutor.SPOOLER, at=time.time() + 0.3)(2)")
    assert server.ledger.wait_one("ran", number=2, timeout=6)["crashes"] == 0
    assert server.ledger.wait_one("ran", id=handle["id"])["place"] == "spooler"
    assert "The timekeeper failed" not in server.log()


# counters


def counters(server):
    counted = server.eval("control.counters()")
    return counted["mule_full"], counted["mule_rerouted"]


@pytest.mark.parametrize("spooler", [True, False])
def test_given_a_full_queue_when_called_strictly_then_each_refusal_is_counted(uwsgi, spooler):
    server = uwsgi(APP, "mule = true", spooler=spooler)
    server.call("holder")
    server.ledger.wait("held")
    taken = server.call("fill", 600)
    assert 0 < taken < 600
    assert counters(server) == (600 - taken, 0)
    server.touch("go")
    assert len(server.ledger.wait("ran", count=taken)) == taken


def test_given_a_full_queue_when_the_spooler_takes_them_then_each_is_counted_as_rerouted(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("holder")
    server.ledger.wait("held")
    server.call("call_many", 600)
    spooled = server.ledger.wait("ran", place="spooler", count=100)
    server.touch("go")
    rows = server.ledger.wait("ran", count=600)
    spooled = [row for row in rows if row["place"] == "spooler"]
    assert counters(server) == (len(spooled), len(spooled))


def test_given_a_message_too_big_for_a_mule_then_only_its_new_way_is_counted(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.touch("go")
    server.eval("holder('x' * 70_000)")
    assert server.ledger.wait_one("ended")["place"] == "spooler"
    assert counters(server) == (0, 1)


def test_given_a_message_too_big_and_no_spooler_then_nothing_is_counted(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    wait_until(lambda: server.pids("mule"))
    with pytest.raises(RemoteError):
        server.eval("holder('x' * 70_000)")
    assert counters(server) == (0, 0)


def test_given_counts_when_the_server_restarts_then_they_stand(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.touch("go")
    server.eval("holder('x' * 70_000)")
    server.restart()
    assert counters(server) == (0, 1)


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_given_a_delayed_task_in_a_mules_queue_when_the_server_ends_then_it_runs_all_the_same(
    uwsgi, how
):
    server = uwsgi(APP, "mule = true")
    server.call("holder")
    server.ledger.wait_one("held")
    server.eval("ran.options(at=time.time() + 0.2)(7)")
    uri = f"file:{server.home / 'store.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as store:
        states = "SELECT state FROM waiting"
        wait_until(lambda: store.execute(states).fetchall() == [(2,)], what="it is in the queue")
    getattr(server, how)()
    server.touch("go")
    server.ledger.wait_one("ran", number=7)
