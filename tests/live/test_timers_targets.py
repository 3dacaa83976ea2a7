"""Where timers run: every documented target, and the ones that can't be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.server import RemoteError

WHERE = """
import uwsgi
from uwsgi_tasks import timer, timer_lazy, cron, cron_lazy

def where():
    return f"worker{uwsgi.worker_id()}" if uwsgi.worker_id() else place()

@timer(seconds=0.2)
def beat(signal_number):
    note("beat")
"""

TICK = """
@timer(seconds=0.5, iterations=2, target={target!r})
def tick_{number}(signal_number):
    note("on " + {target!r}, where=where())

@timer_lazy(seconds=0.3, iterations=2, target={target!r})
def lazy_tick_{number}(signal_number):
    note("lazy " + {target!r}, where=where())
"""

WORKERS = {"worker1", "worker2"}
MULES = {"mule1", "mule2", "mule3"}
# target: the places where each firing may run, and on how many of them it does
TARGETS = {
    "": ({"spooler"}, 1),
    "worker": (WORKERS, 1),
    "worker0": (WORKERS, 1),
    "worker1": ({"worker1"}, 1),
    "worker2": ({"worker2"}, 1),
    "workers": (WORKERS, 2),
    "active-workers": (WORKERS, 2),
    "mule": (MULES, 1),
    "mule0": (MULES, 1),
    "mule1": ({"mule1"}, 1),
    "mule3": ({"mule3"}, 1),
    "mules": (MULES, 3),
    "farm_two": ({"mule2", "mule3"}, 1),
    "spooler": ({"spooler"}, 1),
}
LINES = ("workers = 2", "mules = 3", "farm = two:2,3")


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    ticks = [TICK.format(target=t, number=n) for n, t in enumerate(TARGETS)]
    return module_uwsgi(WHERE + "".join(ticks), *LINES)


def settle(server, beats=4):
    server.ledger.wait("beat", count=len(server.ledger.rows("beat")) + beats)


@pytest.fixture(scope="module")
def settled(shared):
    """The server after all lazy timers were started, and all timers came to their end."""
    for number in range(len(TARGETS)):
        shared.eval(f"lazy_tick_{number}()")
    for target, (_, width) in TARGETS.items():
        shared.ledger.wait(f"on {target}", count=2 * width)
        shared.ledger.wait(f"lazy {target}", count=2 * width)
    settle(shared)
    return shared


@pytest.mark.parametrize("target", TARGETS)
def test_given_a_target_when_its_timer_fires_then_it_runs_there_and_only_there(settled, target):
    rows = settled.ledger.rows(f"on {target}")
    assert {row["where"] for row in rows} <= TARGETS[target][0]


@pytest.mark.parametrize("target", TARGETS)
def test_given_a_target_when_its_iterations_are_over_then_it_ran_exactly_so_often(settled, target):
    assert len(settled.ledger.rows(f"on {target}")) == 2 * TARGETS[target][1]


@pytest.mark.parametrize("target", ["workers", "active-workers", "mules"])
def test_given_a_target_of_many_when_fired_then_each_of_them_runs_it(settled, target):
    places = TARGETS[target][0]
    rows = settled.ledger.rows(f"on {target}")
    assert sorted(row["where"] for row in rows) == sorted([*places, *places])


@pytest.mark.parametrize("target", TARGETS)
def test_given_a_lazy_timer_when_a_request_starts_it_then_it_reaches_its_target(settled, target):
    rows = settled.ledger.rows(f"lazy {target}")
    assert {row["where"] for row in rows} <= TARGETS[target][0]


@pytest.mark.parametrize("target", TARGETS)
def test_given_a_lazy_timer_when_it_ended_then_it_ran_exactly_so_often(settled, target):
    assert len(settled.ledger.rows(f"lazy {target}")) == 2 * TARGETS[target][1]


BAD = ["worker9999999", "worker3", "bogus", "mule99999", "workerx", "farm_", "Spooler", "mule-1"]


@pytest.mark.parametrize("target", BAD)
def test_given_a_target_that_cant_be_when_declared_then_it_is_a_value_error(shared, target):
    with pytest.raises(RemoteError, match="target") as caught:
        shared.eval("timer(seconds=1, target=target)(where)", target=target)
    assert "ValueError" in caught.value.kinds


@pytest.mark.parametrize("target", BAD)
def test_given_a_target_that_cant_be_when_refused_then_the_server_lives_on(shared, target):
    with pytest.raises(RemoteError):
        shared.eval("cron(target=target)(where)", target=target)
    settle(shared, 1)


@pytest.mark.parametrize("target", BAD)
def test_given_a_target_that_cant_be_when_set_up_then_it_is_a_value_error(shared, target):
    with pytest.raises(RemoteError, match="target") as caught:
        shared.eval("lazy_tick_0.add_setup(target=target)", target=target)
    assert "ValueError" in caught.value.kinds


@pytest.mark.parametrize("target", ["5", "True", "b'mule'"])
def test_given_a_target_of_a_wrong_type_when_declared_then_it_is_a_type_error(shared, target):
    with pytest.raises(RemoteError, match="target") as caught:
        shared.eval(f"timer(seconds=1, target={target})(where)")
    assert "TypeError" in caught.value.kinds


MISSING = """
@timer(seconds=0.2, target="farm_zz")
def to_no_farm(signal_number):
    note("farm")

@timer(seconds=0.2, target="mule9")
def to_no_mule(signal_number):
    note("mule9")
"""


def test_given_a_mule_that_is_not_there_when_fired_then_the_log_tells_once(uwsgi):
    server = uwsgi(WHERE + MISSING, "mule = true", "workers = 2")
    server.wait_log("to_no_mule can't run in 'mule9'")
    settle(server)
    assert server.log().count("to_no_mule can't run") == 1


def test_given_a_mule_that_is_not_there_when_fired_then_other_timers_keep_pace(uwsgi):
    server = uwsgi(WHERE + MISSING, "mule = true", "workers = 2")
    times = [row["time"] for row in server.ledger.wait("beat", count=8)]
    assert max(b - a for a, b in pairwise(times)) < 1.5


def test_given_a_farm_that_is_not_there_when_fired_then_the_log_tells_and_it_lives(uwsgi):
    server = uwsgi(WHERE + MISSING, "mule = true", "workers = 2")
    server.wait_log("to_no_farm can't run in 'farm_zz'")
    settle(server)


DEFAULT = (
    WHERE
    + """
@timer(seconds=0.2, iterations=3)
def tick(signal_number):
    note("tick", place=place())
"""
)


def test_given_no_spooler_when_a_timer_has_no_target_then_a_mule_runs_it(uwsgi):
    server = uwsgi(DEFAULT, "mule = true", spooler=False)
    rows = server.ledger.wait("tick", count=3)
    assert {row["place"] for row in rows} == {"mule1"}


def test_given_neither_spooler_nor_mule_when_a_timer_has_no_target_then_a_worker_runs_it(uwsgi):
    server = uwsgi(DEFAULT, "workers = 2", spooler=False)
    rows = server.ledger.wait("tick", count=3)
    assert {row["place"] for row in rows} == {"worker"}


def test_given_workers_only_when_a_timer_has_iterations_then_they_are_exact(uwsgi):
    server = uwsgi(DEFAULT, "workers = 4", spooler=False)
    server.ledger.wait("tick", count=3)
    settle(server)
    assert len(server.ledger.rows("tick")) == 3
