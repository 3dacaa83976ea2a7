"""What a task does to its process harms no other: not the next one there, nor elsewhere."""

from __future__ import annotations

import signal

import pytest

from tests.support import processes
from tests.support.ledger import wait_until

APP = """
import os, signal, sys, threading, time
from uwsgi_tasks import TaskExecutor, control, get_current_task, task

os.environ["KEPT"] = "by the server"
SEEN = [signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGINT,
        signal.SIGPIPE, signal.SIGCHLD]
ALL = signal.valid_signals()

def named(handler):
    return getattr(handler, "__qualname__", str(handler))

def state():
    umask = os.umask(0)
    os.umask(umask)
    return {
        "cwd": os.getcwd(),
        "umask": umask,
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "handlers": [named(signal.getsignal(number)) for number in SEEN],
        "environment": dict(os.environ),
    }

def exits():
    sys.exit(3)

def forks():
    child = os.fork()
    if child:
        note("forked", child=child)

def forks_and_raises():
    if os.fork() == 0:
        raise KeyError("in the child")

def forks_and_stays():
    child = os.fork()
    if child:
        note("forked", child=child)
    else:
        wait_for_file("child goes")

def closes():
    os.closerange(3, 1000)

def closes_all():
    os.closerange(0, 1000)

def changes_directory():
    os.chdir("/")

def changes_umask():
    os.umask(0o777)

def sets_usr1():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

def sets_term():
    signal.signal(signal.SIGTERM, lambda number, frame: None)

def saves_and_restores():
    for number in SEEN:
        signal.signal(number, signal.signal(number, lambda number, frame: None))

def sets_alarm():
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.2)

def sets_all():
    for number in SEEN:
        signal.signal(number, lambda number, frame: note("handled", number=number))

def blocks():
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)

def clears_environment():
    os.environ.clear()

def changes_environment():
    os.environ["KEPT"] = "by the task"
    os.environ["ADDED"] = "by the task"
    del os.environ["PATH"]

@task
def harms(how):
    note("harms", id=get_current_task().id)
    globals()[how]()

@task
def probe(number):
    note("probe", number=number, state=state())

@task
def takes(seconds):
    time.sleep(seconds)
    note("taken")

@task(executor=TaskExecutor.SPOOLER)
def takes_long():
    note("took", interruptions=get_current_task().interruptions)
    wait_for_file("go")

@task
def starts_a_shell():
    note("shell", value=os.popen("echo $KEPT; umask").read().split())

def harm_then_probe(how, executor, count):
    harms.options(executor=executor)(how)
    for number in range(count):
        probe.options(executor=executor)(number)
"""
HARMS = [
    "exits",
    "forks",
    "forks_and_raises",
    "closes",
    "closes_all",
    "changes_directory",
    "changes_umask",
    "sets_usr1",
    "sets_term",
    "saves_and_restores",
    "sets_alarm",
    "sets_all",
    "blocks",
    "clears_environment",
    "changes_environment",
]
COUNT = 20


def start(uwsgi, executor):
    """Start a server, and see what state a task finds that follows none."""
    server = uwsgi(APP, "mule = true", "spooler-ordered = true")
    server.eval("probe.options(executor=executor)(-1)", executor=executor)
    return server, server.ledger.wait_one("probe")["state"]


@pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])
@pytest.mark.parametrize("how", HARMS)
def test_given_a_task_that_harms_its_process_when_others_follow_then_they_run_once_as_ever(
    uwsgi, how, executor
):
    server, before = start(uwsgi, executor)
    server.call("harm_then_probe", how, executor, COUNT)
    server.ledger.wait("probe", count=COUNT + 1, timeout=15)
    server.wait_empty()
    wait_until(lambda: server.eval("control.busy()") == 0)
    rows = server.ledger.rows("probe")[1:]
    assert sorted(row["number"] for row in rows) == list(range(COUNT))
    for row in rows:
        assert row["state"] == before
    assert len(server.ledger.rows("harms")) == 1
    reasons = [letter["error"] for letter in server.letters().values()]
    assert reasons == (["SystemExit: 3"] if how == "exits" else [])
    counted = server.eval("control.counters()")
    assert (counted["crashed"], counted["interrupted"], counted["refused"]) == (0, 0, 0)


@pytest.mark.parametrize("how", ["closes", "sets_usr1", "sets_all", "blocks", "forks_and_stays"])
def test_given_a_task_that_harms_its_process_when_one_is_delayed_then_it_runs_in_time(uwsgi, how):
    server, _ = start(uwsgi, "SPOOLER")
    server.call("harms", how)
    server.eval("probe.options(at=time.time() + 1.0)(1)")
    server.ledger.wait_one("probe", number=1, timeout=8)
    server.touch("child goes")


@pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])
def test_given_a_task_that_changes_directory_when_the_next_one_names_none_then_it_isnt_there(
    uwsgi, executor
):
    server, _ = start(uwsgi, executor)
    call = "probe.options(executor=executor, working_dir=None)(number)"
    server.eval(call, executor=executor, number=1)
    before = server.ledger.wait_one("probe", number=1)["state"]
    server.eval("harms.options(executor=executor)('changes_directory')", executor=executor)
    server.eval(call, executor=executor, number=2)
    assert server.ledger.wait_one("probe", number=2)["state"] == before


@pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])
def test_given_a_task_whose_child_returns_later_then_the_child_ends_and_runs_nothing(
    uwsgi, executor
):
    server, _ = start(uwsgi, executor)
    server.call("harm_then_probe", "forks_and_stays", executor, COUNT)
    child = server.ledger.wait_one("forked")["child"]
    server.ledger.wait("probe", count=COUNT + 1)
    assert processes.is_alive(child)
    server.touch("child goes")
    wait_until(lambda: not processes.is_alive(child), what="the child has ended")
    server.eval("probe.options(executor=executor)(COUNT)", executor=executor, COUNT=COUNT)
    server.ledger.wait("probe", number=COUNT)
    server.wait_empty()
    rows = server.ledger.rows("probe")
    assert sorted(row["number"] for row in rows) == list(range(-1, COUNT + 1))
    assert child not in {row["pid"] for row in rows}
    assert server.letters() == {}


@pytest.mark.parametrize("how", ["changes_environment", "changes_umask"])
def test_given_a_task_that_changes_what_children_inherit_then_the_next_ones_child_is_unharmed(
    uwsgi, how
):
    server, _ = start(uwsgi, "SPOOLER")
    server.call("starts_a_shell")
    before = server.ledger.wait_one("shell")["value"]
    server.call("harms", how)
    server.call("starts_a_shell")
    assert server.ledger.wait("shell", count=2)[1]["value"] == before


@pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])
def test_given_a_task_that_leaves_an_alarm_when_it_rings_then_the_next_one_isnt_hit(
    uwsgi, executor
):
    server, _ = start(uwsgi, executor)
    server.eval("harms.options(executor=executor)('sets_alarm')", executor=executor)
    server.eval("takes.options(executor=executor)(0.6)", executor=executor)
    server.ledger.wait_one("taken")
    assert server.eval("control.counters()['crashed']") == 0


@pytest.mark.parametrize("how", ["sets_term", "saves_and_restores", "sets_all"])
def test_given_a_task_that_set_handlers_when_its_process_is_told_to_end_then_it_ends_in_order(
    uwsgi, how
):
    server, _ = start(uwsgi, "SPOOLER")
    server.call("harms", how)
    server.call("takes_long")
    first = server.ledger.wait_one("took")
    server.kill(first["pid"], signal.SIGTERM)
    server.touch("go")
    assert server.ledger.wait("took", count=2)[1]["interruptions"] == 1


def test_given_a_task_that_closed_uwsgis_descriptors_then_its_process_ends_and_the_log_says_why(
    uwsgi,
):
    server, _ = start(uwsgi, "SPOOLER")
    (spooler,) = server.pids("spooler")
    server.call("harms", "closes")
    assert "ends in order" in server.wait_log("a task closed descriptors")
    wait_until(lambda: set(server.pids("spooler")) - {spooler})
