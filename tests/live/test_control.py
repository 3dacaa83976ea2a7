"""Pausing, resuming, and how many tasks are in hand."""

from __future__ import annotations

import time

import pytest

from tests.support.ledger import wait_until

APP = """
from datetime import timedelta
from uwsgi_tasks import control, task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def blocker(name="go"):
    note("blocked", name=name)
    wait_for_file(name)

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag)

@task(executor=TaskExecutor.MULE)
def muled(name="go"):
    note("blocked", name=name)
    wait_for_file(name)
"""


def test_given_a_pause_when_called_then_nothing_runs_until_resumed(uwsgi):
    server = uwsgi(APP)
    server.eval("control.pause()")
    handle = server.call("ran")
    resumed = time.time()
    server.eval("control.resume()")
    row = server.ledger.wait_one("ran", timeout=3.0)
    assert row["time"] >= resumed
    server.wait_status(handle, "ok")


def test_given_a_pause_when_a_task_is_called_then_it_stays_queued(uwsgi):
    server = uwsgi(APP, "spooler-frequency = 1")
    server.eval("control.pause()")
    handle = server.call("ran")
    server.eval("__import__('time').sleep(1.3)")  # at least one scan passes over it
    assert (server.status(handle), server.ledger.rows("ran")) == ("queued", [])


def test_given_a_pause_when_many_were_called_then_each_runs_once_after_it(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    server.eval("control.pause()")
    server.eval("[ran(n) for n in range(50)] and None")
    server.eval("control.resume()")
    rows = server.ledger.wait("ran", count=50, timeout=5.0)
    server.wait_empty()
    assert sorted(row["tag"] for row in rows) == list(range(50))


@pytest.mark.parametrize(("verb", "expected"), [("pause", True), ("resume", False)])
def test_given_a_verb_when_asked_then_paused_tells(uwsgi, verb, expected):
    server = uwsgi(APP)
    server.eval(f"control.{verb}()")
    assert server.eval("control.paused()") is expected


def test_given_a_pause_when_the_spooler_has_nothing_else_then_it_doesnt_spin(uwsgi):
    server = uwsgi(APP)
    server.eval("control.pause()")
    server.eval("[ran(n) for n in range(5)] and None")
    (spooler,) = server.pids("spooler")
    before = cpu(spooler)
    server.eval("__import__('time').sleep(1.0)")
    assert cpu(spooler) - before < 0.3


def cpu(pid):
    """Return the seconds of CPU time that a process used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_given_tasks_in_hand_when_asked_then_busy_counts_spoolers_and_mules(uwsgi):
    server = uwsgi(APP, "mule = true", "spooler-processes = 2")
    server.eval("(blocker(), blocker(), muled())")
    server.ledger.wait("blocked", count=3)
    assert server.eval("control.busy()") == 3


def test_given_no_task_in_hand_when_asked_then_busy_is_zero(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.eval("(blocker(), muled())")
    server.ledger.wait("blocked", count=2)
    server.touch("go")
    wait_until(lambda: server.eval("control.busy()") == 0)


def test_given_a_task_in_hand_when_its_spooler_was_killed_then_busy_is_right_again(uwsgi):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.kill(*server.pids("spooler"))
    server.ledger.wait("blocked", count=2)
    server.touch("go")
    server.wait_empty()
    assert server.eval("control.busy()") == 0


def test_given_a_task_in_hand_in_a_mule_when_that_was_killed_then_busy_is_right_again(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("muled")
    server.ledger.wait("blocked")
    (mule,) = server.pids("mule")
    server.kill(mule)
    wait_until(lambda: set(server.pids("mule")) - {mule})
    wait_until(lambda: server.eval("control.busy()") == 0)


@pytest.mark.parametrize("how", ["home", "spooler"])
def test_given_a_shell_outside_when_it_pauses_then_the_server_stands_still(uwsgi, shell, how):
    server = uwsgi(APP)
    where = server.home if how == "home" else server.spool
    code = f"import uwsgi_tasks as u; u.configure({how}={str(where)!r}); u.control.pause()"
    shell(server, code)
    assert server.eval("control.paused()") is True


def test_given_a_shell_outside_when_it_asks_busy_then_it_sees_the_task_in_hand(uwsgi, shell):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    code = (
        f"import uwsgi_tasks as u; u.configure(home={str(server.home)!r}); print(u.control.busy())"
    )
    assert shell(server, code) == "1"


def test_given_a_pause_when_the_server_restarts_then_it_still_holds_or_is_lifted_by_resume(uwsgi):
    server = uwsgi(APP)
    server.eval("control.pause()")
    server.restart()
    server.call("ran")
    server.eval("control.resume()")
    server.ledger.wait_one("ran", timeout=3.0)


def test_given_a_paused_server_when_a_delayed_task_is_due_then_it_runs_after_the_resume(uwsgi):
    server = uwsgi(APP)
    server.eval("control.pause()")
    due = time.time() + 0.3
    server.eval("ran.options(at=due)()", due=due)
    wait_until(lambda: time.time() > due + 0.3, what="it is overdue")
    server.eval("control.resume()")
    server.ledger.wait_one("ran", timeout=2.0)


def test_given_a_pause_when_a_mule_is_given_a_task_then_it_runs_after_the_resume(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.touch("go")
    server.eval("control.pause()")
    server.eval("[muled() for _ in range(20)] and None")
    assert server.ledger.rows("blocked") == []
    server.eval("control.resume()")
    server.ledger.wait("blocked", count=20, timeout=5.0)


def test_given_a_pause_when_a_timer_is_declared_then_it_is_quiet_until_resumed(uwsgi):
    source = APP + (
        "from uwsgi_tasks import timer\n"
        "@timer(seconds=0.2, target='spooler')\n"
        "def tick(number):\n"
        "    note('tick')\n"
    )
    server = uwsgi(source)
    server.ledger.wait("tick")
    server.eval("control.pause()")
    wait_until(lambda: server.eval("control.busy()") == 0)
    before = len(server.ledger.rows("tick"))
    until = time.time() + 0.7
    wait_until(lambda: time.time() > until, what="three ticks were due")
    assert len(server.ledger.rows("tick")) <= before + 1
    server.eval("control.resume()")
    server.ledger.wait("tick", count=before + 2)


@pytest.mark.parametrize("code", ["control.busy()", "HANDLE.status()", "HANDLE.cancel()"])
def test_given_a_task_that_looks_at_the_spool_when_run_then_no_other_spooler_takes_it(uwsgi, code):
    source = APP + (
        "from uwsgi_tasks.tasks import Handle\n"
        "from uwsgi_tasks.model import Receipt\n"
        "import threading, uwsgi\n"
        "@task(executor=TaskExecutor.SPOOLER)\n"
        "def looks(ident=None):\n"
        "    from uwsgi_tasks import get_current_task\n"
        "    receipt = Receipt(TaskExecutor.SPOOLER, uwsgi.spoolers[0].decode())\n"
        "    names = {**globals(), 'HANDLE': Handle(get_current_task().id, receipt)}\n"
        f"    thread = threading.Thread(target=lambda: eval({code!r}, names))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    note('looked')\n"
        "    wait_for_file('go')\n"
    )
    server = uwsgi(source, "spooler-processes = 2")
    spoolers = server.pids("spooler")
    server.call("looks")
    server.ledger.wait("looked")
    server.call("ran", "beside")  # makes the other spooler look at the directory
    server.ledger.wait("ran")
    server.touch("go")
    server.wait_empty()
    assert len(server.ledger.rows("looked")) == 1
    assert server.pids("spooler") == spoolers
