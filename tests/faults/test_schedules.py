"""SIGKILL right before and right after each step of a firing: it is neither lost nor doubled."""

from __future__ import annotations

import json

import pytest

from tests.support.ledger import wait_until

from .workload import FILES

pytestmark = pytest.mark.timeout(60)

STEPS = {
    "tick": ("timekeeper", "Timekeeper.tick"),
    "fire_due": ("firing", "Firing.fire_due"),
    "fire_some": ("firing", "Firing._fire_some"),
    "submit": ("firing", "Firing._submit"),
    "note_package": ("site", "Site.note_package"),
    "put": ("store", "Store.put"),
    "add_firing": ("store", "Store.add_firing"),
    "advance": ("store", "Store.advance"),
    "raise_signals": ("targets", "Targets.raise_signals"),
    "take_firing": ("store", "Store.take_firing"),
    "end_firing": ("store", "Store.end_firing"),
}
APP = f"""
import fault_points
from uwsgi_tasks import schedules, task
fault_points.STEPS = {STEPS!r}
fault_points.install()

@task
def tell(name):
    note("tell", name=name)

def add(name, target=""):
    schedules.add(tell, every=1.0, iterations=3, name=name, args=(name,), target=target)
"""
FIRED = ["tick", "fire_due", "fire_some", "submit", "put", "advance"]


def shoot(server, step, when, kind, n, everything=False):
    shot = {
        "step": step,
        "when": when,
        "kind": kind,
        "n": n,
        "token": "shot",
        "everything": everything,
        "then": None,
    }
    server.write("fault.new", json.dumps(shot)).rename(server.dir / "fault")


def told(server):
    return len(server.ledger.rows("tell", name="s"))


def stopped(server):
    return server.eval("schedules.show('s').state") == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", FIRED)
@pytest.mark.parametrize("everything", [False, True], ids=["alone", "everything"])
def test_given_a_kill_at_a_step_of_firing_when_it_ended_then_it_ran_exactly_so_often(
    uwsgi, step, when, everything
):
    server = uwsgi(APP, files=FILES)
    server.eval("add('s')")
    server.ledger.wait("tell")
    server.wait_empty()
    shoot(server, step, when, "spooler", 1, everything)
    server.ledger.wait("killed")
    if everything:
        wait_until(lambda: not server.all_pids())
        server.kill_everything()
        server.start_again()
    server.ledger.wait("tell", count=3, timeout=15.0)
    wait_until(lambda: stopped(server))
    server.wait_empty()
    assert told(server) == 3


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["add_firing", "advance", "raise_signals"])
def test_given_a_kill_at_a_step_of_firing_when_workers_run_it_then_it_ran_exactly_so_often(
    uwsgi, step, when
):
    server = uwsgi(APP, "workers = 2", files=FILES)
    server.eval("add('s', 'worker')")
    server.ledger.wait("tell")
    shoot(server, step, when, "spooler", 1)
    server.ledger.wait("killed")
    server.ledger.wait("tell", count=3, timeout=15.0)
    wait_until(lambda: stopped(server))
    assert told(server) == 3


@pytest.mark.slow
@pytest.mark.parametrize("step", ["take_firing", "end_firing"])
def test_given_a_worker_that_is_killed_with_a_firing_when_the_next_is_due_then_it_fires(
    uwsgi, step
):
    server = uwsgi(APP, "workers = 2", files=FILES)
    server.eval("add('s', 'worker')")
    server.ledger.wait("tell")
    shoot(server, step, "after" if step == "take_firing" else "before", "worker", 1)
    server.ledger.wait("killed")
    wait_until(lambda: stopped(server), timeout=15.0)
    assert told(server) >= 2
