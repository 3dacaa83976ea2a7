"""The handle of a call: its status as the files tell it, its result, and cancelling."""

from __future__ import annotations

import pytest

from tests.support.server import RemoteError

APP = """
from datetime import timedelta
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def blocker(name="go"):
    note("blocked", name=name)
    wait_for_file(name)

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag)

@task(executor=TaskExecutor.SPOOLER)
def fails():
    raise KeyError()

@task(executor=TaskExecutor.MULE)
def muled():
    note("muled")
    wait_for_file("go")

@task(executor=TaskExecutor.RUNTIME)
def inline():
    return 42
"""


@pytest.fixture
def busy(uwsgi):
    """A server whose only spooler has a task in hand."""
    server = uwsgi(APP, "mule = true")
    server.blocked = server.call("blocker")
    server.ledger.wait("blocked")
    return server


def test_given_a_task_that_waits_for_a_busy_spooler_when_asked_then_it_is_queued(busy):
    assert busy.status(busy.call("ran")) == "queued"


def test_given_a_task_in_hand_when_asked_then_it_is_running(busy):
    assert busy.status(busy.blocked) == "running"


def test_given_a_task_in_hand_when_asked_often_then_it_still_runs_only_once(busy):
    for _ in range(50):
        busy.status(busy.blocked)
    busy.touch("go")
    busy.wait_status(busy.blocked, "ok")
    assert len(busy.ledger.rows("blocked")) == 1


def test_given_a_task_that_ended_when_asked_then_it_is_ok(uwsgi):
    server = uwsgi(APP)
    server.wait_status(server.call("ran"), "ok")
    assert len(server.ledger.rows("ran")) == 1


def test_given_a_task_that_died_when_asked_then_it_is_dead(uwsgi):
    server = uwsgi(APP)
    server.wait_status(server.call("fails"), "dead")


def test_given_a_delayed_task_when_asked_then_it_is_scheduled(uwsgi):
    server = uwsgi(APP)
    assert server.status(server.eval("ran.options(at=timedelta(hours=1))()")) == "scheduled"


@pytest.mark.parametrize(
    "options", ["", ".options(at=timedelta(seconds=1))", ".options(priority=5)"]
)
def test_given_a_queued_task_when_cancelled_then_it_never_runs(busy, options):
    handle = busy.eval(f"ran{options}('cancelled')")
    assert busy.eval("HANDLES[id].cancel()", id=handle["id"]) is True
    busy.touch("go")
    busy.eval("ran.options(at=timedelta(seconds=1.2))('after')")
    busy.ledger.wait("ran", tag="after")
    assert busy.ledger.rows("ran", tag="cancelled") == []


def test_given_a_cancelled_task_when_asked_then_it_is_cancelled(busy):
    handle = busy.call("ran")
    busy.eval("HANDLES[id].cancel()", id=handle["id"])
    assert busy.status(handle) == "cancelled"


def test_given_a_task_that_cancels_itself_when_run_then_the_spooler_lives(uwsgi):
    source = APP + (
        "LAST = []\n"
        "@task(executor=TaskExecutor.SPOOLER)\n"
        "def cancels_itself():\n"
        "    from uwsgi_tasks import get_current_task, engine\n"
        "    site = engine.current().require_site()\n"
        "    from uwsgi_tasks.tasks import Handle\n"
        "    from uwsgi_tasks.model import Receipt\n"
        "    spool = engine.current().spools()[0]\n"
        "    handle = Handle(get_current_task().id, Receipt(TaskExecutor.SPOOLER, spool))\n"
        "    note('asked', status=handle.status(), cancelled=handle.cancel())\n"
    )
    server = uwsgi(source)
    spooler = server.pids("spooler")
    server.call("cancels_itself")
    row = server.ledger.wait_one("asked")
    server.wait_empty()
    assert (row["status"], row["cancelled"]) == ("running", False)
    assert server.pids("spooler") == spooler


def test_given_runtime_when_asked_then_it_is_ok_with_its_result(uwsgi):
    server = uwsgi(APP)
    assert server.eval("(lambda h: [h.status(), h.result(), h.cancel()])(inline())") == [
        "ok",
        42,
        False,
    ]


def test_given_a_spooled_task_when_its_result_is_asked_then_it_is_not_available(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.eval("ran().result()")
    assert caught.value.kind == "NotAvailable"


def test_given_a_mules_task_when_asked_then_what_isnt_known_is_said(uwsgi):
    server = uwsgi(APP, "mule = true")
    running, queued = server.call("muled"), server.call("muled")
    server.wait_status(running, "running")
    assert server.status(queued) == "unknown"
    server.touch("go")
    server.wait_status(queued, "ok")


def test_given_a_mules_task_when_cancelled_then_it_is_not_available(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.wait_status(server.call("muled"), "running")
    with pytest.raises(RemoteError) as caught:
        server.eval("muled().cancel()")
    assert caught.value.kind == "NotAvailable"


def test_given_a_stopped_spooler_when_its_task_is_asked_for_then_it_is_queued(uwsgi):
    server = uwsgi(APP)
    server.freeze()
    assert server.status(server.call("ran")) == "queued"
