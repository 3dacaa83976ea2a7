"""Every task runs, and runs once; after kills it runs again; after a restart it runs at last."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.support.ledger import wait_until

APP = """
import threading
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def count(number):
    note("ran", number=number)

@task(executor=TaskExecutor.SPOOLER)
def held(name):
    note("started", name=name)
    wait_for_file("go")
    note("ended", name=name)

def burst(first, last):
    for number in range(first, last):
        count(number)

def burst_in_threads(threads, each):
    parts = [(n * each, n * each + each) for n in range(threads)]
    running = [threading.Thread(target=burst, args=part) for part in parts]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
"""


def ran(server):
    return Counter(row["number"] for row in server.ledger.rows("ran"))


def wait_ran(server, total, timeout):
    """Wait for as many rows; the file is only counted, not read each time."""

    def lines():
        return server.ledger.path.exists() and server.ledger.path.read_bytes().count(b"\n") >= total

    wait_until(lines, timeout, f"{total} rows in the ledger")


@pytest.mark.slow
def test_given_two_spooler_processes_when_5000_tasks_are_called_then_each_runs_once(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("burst(0, 5000)", timeout=60)
    wait_ran(server, 5000, 60)
    server.wait_empty()
    assert ran(server) == Counter(range(5000))


@pytest.mark.slow
def test_given_four_threads_when_each_calls_1000_tasks_then_none_is_lost(uwsgi):
    server = uwsgi(APP, "spooler-quiet = true")
    server.eval("burst_in_threads(4, 1000)", timeout=60)
    wait_ran(server, 4000, 60)
    server.wait_empty()
    assert ran(server) == Counter(range(4000))


def test_given_many_prioritised_and_delayed_tasks_when_all_ran_then_each_ran_once(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("[count.options(priority=n % 7)(n) for n in range(150)] and None", timeout=60)
    code = (
        "[count.options(at=0.5 + __import__('time').time())(n) for n in range(150, 300)] and None"
    )
    server.eval(code, timeout=60)
    wait_ran(server, 300, 30)
    server.wait_empty()
    assert ran(server) == Counter(range(300))


def test_given_a_task_in_hand_when_the_spooler_is_killed_then_it_runs_again(uwsgi):
    server = uwsgi(APP)
    server.call("held", "a")
    first = server.ledger.wait_one("started")
    server.kill(first["pid"])
    rows = server.ledger.wait("started", count=2)
    server.touch("go")
    assert server.ledger.wait_one("ended")["pid"] == rows[1]["pid"] != first["pid"]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_given_a_task_in_hand_when_the_spooler_is_told_to_end_then_it_runs_to_its_end_at_last(
    uwsgi, sig
):
    server = uwsgi(APP)
    server.call("held", "a")
    first = server.ledger.wait_one("started")
    server.kill(first["pid"], sig)
    server.touch("go")
    server.ledger.wait("ended")


def test_given_queued_tasks_when_everything_is_killed_then_all_run_after_the_restart(uwsgi):
    server = uwsgi(APP, "spooler-quiet = true")
    server.freeze()
    server.eval("burst(0, 100)")
    server.eval("[count.options(priority=5)(n) for n in range(100, 150)] and None")
    code = (
        "[count.options(at=0.2 + __import__('time').time())(n) for n in range(150, 200)] and None"
    )
    server.eval(code)
    server.kill_everything()
    server.start_again()
    wait_ran(server, 200, 20)
    server.wait_empty()
    assert ran(server) == Counter(range(200))


@pytest.mark.slow
def test_given_a_storm_of_tasks_when_everything_is_killed_amid_it_then_none_is_lost(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2", "spooler-quiet = true")
    server.eval("burst(0, 1000)")
    server.eval("[count.options(priority=5)(n) for n in range(1000, 1100)] and None")
    wait_ran(server, 300, 20)
    server.kill_everything()
    server.start_again()
    wait_until(lambda: len(ran(server)) == 1100, 30, "each ran at least once")
    twice = [number for number, times in ran(server).items() if times > 1]
    assert len(twice) <= 2  # what the two spoolers had in hand


def test_given_a_task_in_hand_when_reloaded_then_it_runs_again_after_it(uwsgi):
    server = uwsgi(APP)
    server.call("held", "a")
    server.ledger.wait("started")
    server.reload()
    server.touch("go")
    server.ledger.wait("ended")


def test_given_calls_at_import_in_the_master_when_reloaded_then_each_load_calls_once(uwsgi):
    server = uwsgi(APP + "count(1)\n")
    server.ledger.wait("ran")
    server.reload()
    wait_ran(server, 2, 10)
    server.wait_empty()
    assert ran(server) == Counter({1: 2})


@pytest.mark.slow
def test_given_a_master_killed_when_started_again_then_the_queue_goes_on(uwsgi):
    server = uwsgi(APP, "spooler-quiet = true")
    server.call("held", "a")
    server.ledger.wait("started")
    server.eval("burst(0, 50)")
    server.kill(server.master)
    server.touch("go")
    server.kill_everything()
    server.start_again()
    wait_until(lambda: len(ran(server)) == 50, 20, "each ran")
