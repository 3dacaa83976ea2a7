"""Real deaths of whole processes, from outside, and reloads, while tasks run."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import statistics

import pytest

from tests.support.ledger import wait_until

from . import actions, scenario
from .checker import Checker
from .scenario import WORKLOADS

pytestmark = pytest.mark.timeout(150)
PATIENCE_S = scenario.PATIENCE_S
CALLS = (*WORKLOADS["steady"], *WORKLOADS["muled"])


@pytest.fixture(scope="module")
def server(module_uwsgi):
    lines = ("die-on-term = false", "touch-reload = {dir}/touched")
    return scenario.start(functools.partial(module_uwsgi, started=False), *lines)


def disturb(server, act, calls=CALLS, rounds=2, seed=1):
    """Do something to a server at seeded moments of a workload, and check that."""
    actions.revive(server)
    checker, random_ = Checker(server), random.Random(seed)
    for _ in range(rounds):
        rows = len(server.ledger.rows())
        scenario.send_all(server, calls)
        moment = rows + random_.randrange(len(calls), 3 * len(calls))
        with contextlib.suppress(AssertionError):  # it may have ended before
            wait_until(lambda m=moment: len(server.ledger.rows()) >= m, 1.0)
        act(server)
    checker.wait(PATIENCE_S)
    return checker


# deaths


@pytest.mark.parametrize("kind", ["spooler", "worker", "mule"])
def test_given_a_workload_when_one_process_is_killed_then_nothing_is_lost(server, kind):
    disturb(server, lambda server: actions.kill_one(server, kind))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["spooler", "worker", "mule"])
def test_given_a_workload_when_processes_are_killed_at_random_moments_then_nothing_is_lost(
    server, kind, seed
):
    disturb(server, lambda server: actions.kill_one(server, kind), rounds=4, seed=seed)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["spooler", pytest.param("mule", marks=pytest.mark.slow)])
def test_given_a_workload_when_a_process_is_told_to_end_then_nothing_is_lost(server, kind, sig):
    disturb(server, lambda server: actions.kill_one(server, kind, sig=sig), rounds=1)


def test_given_a_workload_when_the_master_is_killed_then_nothing_is_lost(server):
    disturb(server, actions.kill_master, rounds=1)


def kill_everything_and_start(server):
    actions.kill_everything(server)
    server.start_again()


def test_given_a_workload_when_everything_is_killed_then_nothing_is_lost(server):
    disturb(server, kill_everything_and_start)


# reloads and stops


@contextlib.contextmanager
def reloading(server):
    """Wait, in the end, until the server is up again after a reload by other means."""
    before = server.log().count("spawned uWSGI master process")
    with actions.stopping(server, "reload"):
        yield
        wait_until(
            lambda: server.log().count("spawned uWSGI master process") > before,
            PATIENCE_S,
            "it reloads",
        )
        wait_until(lambda: server.pids("worker") and server.pids("spooler"), PATIENCE_S)


def reload_by_term(server):
    with reloading(server):
        os.kill(server.master, signal.SIGTERM)  # without die-on-term it reloads


def reload_by_touch(server):
    with reloading(server):
        path = server.dir / "touched"
        later = path.stat().st_mtime + 10  # uWSGI looks at whole seconds
        os.utime(path, (later, later))


RELOADS = {
    "SIGHUP": actions.reload,
    "SIGTERM": reload_by_term,
    "touch": reload_by_touch,
    "stop and start": actions.restart,
    "SIGQUIT and start": lambda server: actions.restart(server, signal.SIGQUIT),
}


@pytest.mark.parametrize(
    "how",
    [
        "SIGHUP",
        "SIGTERM",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("touch", "SIGQUIT and start")),
    ],
)
def test_given_a_workload_when_the_server_goes_in_order_then_nothing_is_lost(server, how):
    disturb(server, RELOADS[how], rounds=1)


def roll(server, how, task, gate):
    """Let a long task meet five reloads; return its rows of starts."""
    checker = Checker(server)
    ident = actions.send(server, task, gate)
    server.ledger.wait("started", id=ident)
    for number in range(5):
        how(server)
        server.ledger.wait("started", id=ident, count=number + 2, timeout=PATIENCE_S)
    server.touch(gate)
    server.ledger.wait("finished", id=ident)
    checker.wait(PATIENCE_S)
    return server.ledger.rows("started", id=ident)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGHUP", "SIGTERM", "touch", "stop and start"])
def test_given_a_long_task_when_the_server_reloads_five_times_then_it_ends_once(server, how, tag):
    rows = roll(server, RELOADS[how], "held", tag)
    assert [(row["crashes"], row["interruptions"]) for row in rows] == [(0, n) for n in range(6)]
    assert {row["attempt"] for row in rows} == {1}
    assert len(server.ledger.rows("finished", id=rows[0]["id"])) == 1


# how soon, how often


def test_given_tasks_whose_process_dies_when_they_start_again_then_it_is_within_two_seconds(server):
    waits = []
    checker = Checker(server)
    for _ in range(3):
        ident = actions.send(server, "stumbles")
        first, second = server.ledger.wait("started", id=ident, count=2, timeout=PATIENCE_S)
        waits.append(second["time"] - first["time"])
    checker.wait(PATIENCE_S)
    assert statistics.median(waits) <= 2.0, waits


def test_given_two_poison_tasks_before_fifty_good_ones_then_all_run_and_the_poison_is_dead(server):
    actions.revive(server)
    checker = Checker(server)
    server.freeze()
    poison = [actions.send(server, "poison") for _ in range(2)]
    good = server.eval("[send('good').id for _ in range(50)]")
    server.thaw()
    checker.wait(PATIENCE_S)
    stories = checker.stories()
    assert [len(stories[ident].starts) for ident in poison] == [3, 3]
    assert {stories[ident].reason for ident in poison} == {
        "its process died 3 times (max_crashes=3)"
    }
    assert all(len(stories[ident].starts) == 1 for ident in good)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_given_fifteen_wanted_attempts_when_ten_kills_fall_then_one_a_kill_is_added_at_most(
    uwsgi, seed
):
    env = {"UWSGITASKS_MAX_CRASHES": "100"}
    source = "from uwsgi_tasks import recovery\nrecovery.wait_after_crash = lambda crashes: 0.1\n"
    factory = functools.partial(uwsgi, started=False)
    server = scenario.start(factory, source=source, env=env)
    random_ = random.Random(seed)
    checker = Checker(server)
    tokens = []
    ident = ""
    for _ in range(10):
        step = random_.choice(("run", "deliver", "put", "begin", "note_over", "end", "enter"))
        shot = (step, random_.choice(("before", "after")))
        tokens.append(actions.arm(server, *shot, n=random_.randint(1, 2), kind="spooler"))
        ident = ident or actions.send(server, "fifteen")  # which would end before a shot is armed
        wait_until(
            lambda token=tokens[-1], ident=ident: (
                actions.was_fired(server, token) or server.ledger.rows("finished", id=ident)
            ),
            PATIENCE_S,
        )
    actions.disarm(server)
    checker.wait(PATIENCE_S)
    kills = sum(actions.was_fired(server, token) for token in tokens)
    attempts = [row["attempt"] for row in server.ledger.rows("started", id=ident)]
    assert kills >= 5
    assert sorted(set(attempts)) == list(range(1, 16))
    assert 15 <= len(attempts) <= 15 + kills


# as an ordinary user


@pytest.fixture
def unprivileged(uwsgi):
    """A server of this test's own, as an ordinary user where that is possible."""
    return scenario.start(functools.partial(uwsgi, started=False))


@pytest.fixture
def ordinary(uwsgi):
    """A server that runs as an ordinary user, whom modes hold."""
    if scenario.why_not_ordinary():
        pytest.skip(scenario.why_not_ordinary())
    return scenario.start(functools.partial(uwsgi, started=False))


def test_given_a_readonly_spool_when_spoolers_and_workers_are_killed_then_nothing_is_lost(
    ordinary, tag
):
    server = ordinary
    checker = Checker(server)
    held = actions.send(server, "held", tag)
    server.ledger.wait("started", id=held)
    queued = [actions.send(server, "good") for _ in range(3)]
    server.spool.chmod(0o555)
    try:
        refused = server.eval("failure_of('good')")
        actions.kill_one(server, "spooler")
        actions.kill_one(server, "worker")
        server.ledger.wait("started", id=held, count=1)
    finally:
        server.spool.chmod(0o755)
        server.touch(tag)
    assert refused == "NotAvailable"
    checker.wait(PATIENCE_S)
    assert all(server.ledger.rows("finished", id=ident) for ident in (held, *queued))


def test_given_a_spool_that_is_taken_away_when_it_is_back_then_nothing_is_lost(unprivileged):
    server = unprivileged
    actions.send(server, "good")
    server.ledger.wait("finished")
    server.wait_empty()
    checker = Checker(server)
    server.freeze()
    queued = [actions.send(server, name) for name in ("good", "retries", "exhausted")]
    away = server.dir / "away"
    server.spool.rename(away)
    server.thaw()
    refused = server.eval("failure_of('good')")
    away.rename(server.spool)
    checker.wait(PATIENCE_S)
    assert refused == "NotAvailable"
    assert all(server.ledger.rows("started", id=ident) for ident in queued)


def test_given_a_removed_spool_when_it_is_made_again_then_calls_fail_until_then_and_run_later(
    unprivileged,
):
    server = unprivileged
    actions.send(server, "good")
    server.ledger.wait("finished")
    server.wait_empty()
    shutil.rmtree(server.spool)
    refused = [server.eval("failure_of('good')") for _ in range(2)]
    scenario.make_spool(server)
    actions.restart(server)  # the home was in it
    assert refused == ["NotAvailable", "NotAvailable"]
    checker = Checker(server)
    for name in ("good", "retries", "dies"):
        actions.send(server, name)
    checker.wait(PATIENCE_S)
