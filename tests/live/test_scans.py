"""Wake-ups are neither lost nor hoarded: a few scans for a burst, none while nothing happens."""

from __future__ import annotations

import time

import pytest

from tests.support.ledger import wait_until
from tests.support.watching import scans, switches

APP = """
import os, time
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def nap(seconds=0.005, tag="nap"):
    note(tag, started=time.time())
    time.sleep(seconds)
    note(f"{tag} ended")

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def hold(name="go"):
    note("held")
    wait_for_file(name)
    note("let go")

def call_in_silence():
    from uwsgi_tasks import engine
    engine.current().server.wake = lambda spool, tell: True  # no signal, as if it had been lost
    nap(0, "lost")
"""
NEXT_START_S = 0.05  # on a busy machine; benchmarks/time.py tells the figure


def lies(server):
    return [path for path in server.spool.iterdir() if path.name.startswith("uwsgi_spoolfile")]


def test_given_a_burst_at_a_busy_spooler_when_it_ran_then_there_were_a_few_scans_more(uwsgi):
    server = uwsgi(APP)
    server.call("nap", 0, "warm")
    server.ledger.wait("warm ended")
    with scans(server.spool) as seen:
        server.eval("[nap() for _ in range(500)] and None")
        server.ledger.wait("nap ended", count=500, timeout=30)
        wait_until(lambda: not lies(server))
        time.sleep(0.1)  # what would follow
        assert seen.count() <= 30


@pytest.mark.parametrize("processes", [1, 2])
def test_given_an_idle_server_when_nothing_comes_then_nobody_wakes_up(uwsgi, processes):
    server = uwsgi(APP, f"spooler-processes = {processes}")
    server.call("nap")
    server.ledger.wait("nap ended")
    time.sleep(1.6)  # until the timekeeper has looked for the last time
    pids = server.pids("spooler")
    before = [switches(pid) for pid in pids]
    time.sleep(3)
    after = [switches(pid) for pid in pids]
    assert after == before


@pytest.mark.parametrize("lines", [[], ["spooler-frequency = 1"], ["spooler-frequency = 60"]])
def test_given_a_busy_spooler_when_a_task_comes_then_it_starts_when_that_is_free(uwsgi, lines):
    server = uwsgi(APP, *lines)
    waits = []
    for number in range(5):
        server.call("nap", 0.2, f"first {number}")
        server.ledger.wait(f"first {number}")
        time.sleep(0.05)
        server.call("nap", 0, f"next {number}")
        started = server.ledger.wait_one(f"next {number}")["started"]
        waits.append(started - server.ledger.wait_one(f"first {number} ended")["time"])
    assert sorted(waits)[2] < NEXT_START_S


def test_given_a_wake_up_that_was_lost_when_a_file_lies_there_then_it_is_taken_within_seconds(
    uwsgi,
):
    server = uwsgi(APP)
    server.call("nap")
    server.ledger.wait("nap ended")
    server.call("call_in_silence")
    server.ledger.wait("lost ended", timeout=4)


def test_given_a_spooler_killed_in_its_handler_when_another_comes_then_it_is_told(uwsgi):
    server = uwsgi(APP)
    server.call("hold")
    server.ledger.wait("held")
    server.call("nap", 0, "after")
    server.kill(*server.pids("spooler"))
    server.touch("go")
    server.ledger.wait("after ended", timeout=5)
    server.call("nap", 0, "again")
    server.ledger.wait("again ended", timeout=2)
