"""A schedule exists once per instance, whatever imports its module and however often it starts."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.support.ledger import wait_until

APP = """
import uwsgi
from uwsgi_tasks import timer, timer_lazy

@timer(seconds=0.2)
def beat(signal_number):
    note("beat")

@timer(seconds=0.2, iterations=3)
def tick(signal_number):
    note("tick", place=place())

@timer(seconds=0.3, iterations=2, target="worker")
def in_worker(signal_number):
    note("in_worker", place=place())

@timer_lazy(seconds=0.2, iterations=2, target="mule")
def lazy_in_mule(signal_number):
    note("lazy_in_mule", place=place())

@timer_lazy(seconds=0.2, iterations=2, target="spooler")
def lazy_in_spooler(signal_number):
    note("lazy_in_spooler", place=place())
"""

SERVERS = {
    "one worker": ("workers = 1",),
    "four workers": ("workers = 4",),
    "spooler-import": ("workers = 2", "spooler-import = app"),
    "two spoolers": ("spooler-processes = 2",),
    "spoolers and mules": ("workers = 2", "spooler-processes = 2", "mules = 2"),
    "lazy-apps": ("workers = 4", "lazy-apps = true"),
    "lazy-apps, shared-import": ("workers = 4", "lazy-apps = true", "shared-import = app"),
    "lazy-apps, spooler-import": ("workers = 4", "lazy-apps = true", "spooler-import = app"),
    "threads": ("workers = 2", "threads = 4"),
}


def settle(server, beats=4):
    server.ledger.wait("beat", count=len(server.ledger.rows("beat")) + beats)


@pytest.fixture(scope="module", params=SERVERS)
def server(module_uwsgi, request):
    return module_uwsgi(APP, *SERVERS[request.param])


def test_given_a_server_when_a_timer_ended_then_it_fired_exactly_so_often(server):
    server.ledger.wait("tick", count=3)
    settle(server)
    assert len(server.ledger.rows("tick")) == 3


def test_given_a_server_when_a_timer_of_a_worker_ended_then_it_fired_exactly_so_often(server):
    server.ledger.wait("in_worker", count=2)
    settle(server)
    assert [row["place"] for row in server.ledger.rows("in_worker")] == ["worker", "worker"]


def test_given_a_server_when_its_clock_ticks_then_ticks_keep_their_distance(server):
    server.ledger.wait("beat", count=6)
    times = sorted(row["time"] for row in server.ledger.rows("beat"))[1:]
    close = [b - a for a, b in pairwise(times) if b - a < 0.02]
    assert len(close) <= len(times) // 4


def test_given_a_server_when_it_started_then_no_import_failed(server):
    assert "Traceback" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one worker", "four workers", "lazy-apps", "spoolers and mules"])
def test_given_a_reload_when_up_again_then_timers_start_anew_once(uwsgi, name):
    server = uwsgi(APP, *SERVERS[name])
    server.ledger.wait("tick", count=3)
    server.wait_empty()  # a firing in hand at the reload would run again
    server.reload()
    server.ledger.wait("tick", count=6)
    settle(server)
    assert len(server.ledger.rows("tick")) == 6


@pytest.mark.slow
def test_given_a_timer_in_full_swing_when_reloaded_then_it_goes_on_at_its_pace(uwsgi):
    server = uwsgi(APP, "workers = 2")
    server.ledger.wait("beat", count=3)
    server.reload()
    before = len(server.ledger.rows("beat"))
    settle(server, 11)
    times = [row["time"] for row in server.ledger.rows("beat")[before:]]
    assert 1.5 < times[10] - times[0] < 3.0


@pytest.mark.slow
def test_given_a_killed_timekeeper_when_another_takes_over_then_timers_go_on(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    server.ledger.wait("beat", count=2)
    for pid in server.pids("spooler"):
        server.kill(pid)
    settle(server)


@pytest.mark.slow
def test_given_a_server_that_was_down_when_started_again_then_missed_ticks_are_not_made_up(uwsgi):
    server = uwsgi(APP)
    server.ledger.wait("beat", count=2)
    server.kill_everything()
    before = len(server.ledger.rows("beat"))
    down_until = server.ledger.rows("beat")[-1]["time"] + 2.0
    wait_until(lambda: time.time() > down_until, 5.0)
    server.start_again()
    rows = server.ledger.wait("beat", count=before + 6)[before:]
    times = [row["time"] for row in rows[1:]]  # the first stands for what is less than 60 s past
    assert min(b - a for a, b in pairwise(times)) > 0.05


@pytest.mark.slow
def test_given_another_period_in_the_code_when_restarted_then_it_is_the_one_that_counts(uwsgi):
    server = uwsgi(SLOW_CLOCK)
    server.write(
        "app.py", (server.dir / "app.py").read_text().replace("seconds=3600", "seconds=0.2")
    )
    server.restart()
    server.ledger.wait("slow_clock", count=3)


@pytest.mark.slow
def test_given_a_lazy_timer_that_ran_when_restarted_then_it_waits_for_a_call_again(uwsgi):
    server = uwsgi(SLOW_CLOCK + APP)
    server.eval("lazy_clock()")
    server.ledger.wait("lazy_clock", count=2)
    server.restart()
    before = len(server.ledger.rows("lazy_clock"))
    settle(server)
    assert len(server.ledger.rows("lazy_clock")) == before


SLOW_CLOCK = """
from uwsgi_tasks import timer, timer_lazy

@timer(seconds=3600)
def slow_clock(signal_number):
    note("slow_clock")

@timer_lazy(seconds=0.2)
def lazy_clock(signal_number):
    note("lazy_clock")
"""


@pytest.mark.slow
def test_given_a_timer_that_left_the_code_when_reloaded_then_it_fires_no_more(uwsgi):
    server = uwsgi(APP)
    server.write("app.py", (server.dir / "app.py").read_text() + GONE)
    server.restart()
    server.ledger.wait("gone", count=2)
    server.write("app.py", (server.dir / "app.py").read_text().replace(GONE, ""))
    server.restart()
    settle(server, 2)
    before = len(server.ledger.rows("gone"))
    settle(server)
    assert len(server.ledger.rows("gone")) == before


GONE = """
@timer(seconds=0.2)
def gone(signal_number):
    note("gone")
"""


@pytest.mark.parametrize("lines", [(), ("lazy-apps = true", "shared-import = app")])
@pytest.mark.parametrize("target", ["mule", "spooler"])
def test_given_a_lazy_timer_when_a_request_starts_it_then_it_runs_elsewhere(uwsgi, target, lines):
    server = uwsgi(APP, "mule = true", "workers = 2", *lines)
    server.eval(f"lazy_in_{target}()")
    rows = server.ledger.wait(f"lazy_in_{target}", count=2)
    assert {row["place"].rstrip("1") for row in rows} == {target}


UNIQUE = """
from uwsgi_tasks import timer

{timers}

@timer(seconds=0.2)
def beat(signal_number):
    note("beat")
"""
MANY = """
@timer(seconds={seconds}, iterations=1)
def tick_{n}(signal_number):
    note("tick", n={n})
"""


def many(count, seconds="0.5"):
    return UNIQUE.format(timers="".join(MANY.format(n=n, seconds=seconds) for n in range(count)))


def test_given_200_timers_in_a_module_when_due_then_each_fires(uwsgi):
    server = uwsgi(many(200))
    rows = server.ledger.wait("tick", count=200, timeout=15.0)
    assert sorted(row["n"] for row in rows) == list(range(200))


@pytest.mark.slow
def test_given_2000_timers_when_registered_then_the_server_starts_and_they_fire(uwsgi):
    server = uwsgi(many(2000, seconds="1.5"))
    rows = server.ledger.wait("tick", count=2000, timeout=60.0)
    assert sorted(row["n"] for row in rows) == list(range(2000))


SPLIT = {
    "my_timer_tasks.py": """
from app_base import note, place
from uwsgi_tasks import timer

@timer(seconds=0.2, iterations=3)
def split_tick(signal_number):
    note("split", place=place())
""",
    "package/__init__.py": "from my_timer_tasks import *\n",
}


def test_given_timers_in_a_module_of_the_spooler_alone_when_up_then_they_fire_once(uwsgi):
    server = uwsgi(APP, "spooler-import = package", "spooler-processes = 2", files=SPLIT)
    server.ledger.wait("split", count=3)
    settle(server)
    assert len(server.ledger.rows("split")) == 3
