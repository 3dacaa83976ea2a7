"""Draining: nothing is taken, nothing spins, what runs ends; and a reload that waits for it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import time
from datetime import timedelta
from uwsgi_tasks import TaskExecutor, control, drain, get_current_task, pause, resume, task

@task
def holder(name="go"):
    this = get_current_task()
    note("held", name=name, again=this.redelivered)
    wait_for_file(name)
    note("ended", name=name)

@task
def ran(tag="x"):
    note("ran", tag=tag)

@task
def drains():
    started = time.monotonic()
    note("drained", result=drain(20), took=time.monotonic() - started)

@task
def reloads():
    try:
        control.reload()
    except RuntimeError as error:
        note("refused", kind=type(error).__name__)

def call_many(count):
    for number in range(count):
        ran(number)
"""
both = pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])


def call(server, name, executor, *args):
    return server.eval(f"{name}.options(executor=executor)(*args)", executor=executor, args=args)


def cpu(pid):
    """Return the clock ticks of CPU time that a process used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def starts(server):
    """Return how often the server started or was reloaded in this life."""
    return server.log().count("spawned uWSGI master process")


def taken(server):
    """Return how often a spooler looked into a file."""
    return server.log().count("managing request")


def later(seconds):
    """Let time pass in which something mustn't happen."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, what="time passes")


# pause


@pytest.mark.parametrize("processes", [1, 2])
def test_given_a_pause_when_files_wait_then_no_spooler_scans_spins_or_ends(uwsgi, processes):
    server = uwsgi(
        APP,
        f"spooler-processes = {processes}",
        "spooler-max-tasks = 10",
        "spooler-frequency = 1",
    )
    server.eval("pause()")
    server.call("call_many", 10)
    wait_until(lambda: taken(server) == processes)
    spoolers = server.pids("spooler")
    before = [cpu(pid) for pid in spoolers]
    for _ in range(20):
        for pid in spoolers:
            server.kill(pid, signal.SIGUSR1)
    server.call("call_many", 10)
    later(2.2)  # two scans would have come
    assert taken(server) == processes
    assert server.pids("spooler") == spoolers
    assert sum(map(cpu, spoolers)) - sum(before) <= 5 * processes
    assert server.ledger.rows() == []
    server.eval("resume()")
    server.ledger.wait("ran", count=20, timeout=20)


def test_given_a_pause_when_it_ends_then_what_waits_starts_at_once(uwsgi):
    server = uwsgi(APP)  # its spooler looks every 30 s
    server.eval("pause()")
    server.call("call_many", 30)
    wait_until(lambda: taken(server) == 1)
    server.eval("resume()")
    rows = server.ledger.wait("ran", count=30, timeout=8)
    assert sorted(row["tag"] for row in rows) == list(range(30))
    server.wait_empty()


def test_given_spooler_harakiri_when_a_pause_is_longer_then_no_spooler_is_killed(uwsgi):
    server = uwsgi(APP, "spooler-harakiri = 2")
    server.eval("pause()")
    server.call("call_many", 3)
    (spooler,) = server.pids("spooler")
    before = cpu(spooler)
    later(5.0)
    assert server.pids("spooler") == [spooler]
    assert cpu(spooler) - before <= 10
    assert taken(server) <= 8
    server.eval("resume()")
    server.ledger.wait("ran", count=3, timeout=8)
    assert "HARAKIRI" not in server.log()


def test_given_a_pause_when_a_call_is_cancelled_then_it_never_runs_and_stays_cancelled(uwsgi):
    server = uwsgi(APP, "spooler-ordered = true")
    server.eval("pause()")
    handles = [server.call("ran", number) for number in range(3)]
    wait_until(lambda: taken(server) == 1)  # the first one's file is locked by uWSGI
    cancelled = [server.eval("HANDLES[id].cancel()", id=handle["id"]) for handle in handles[:2]]
    assert cancelled == [True, True]
    assert [server.status(handle) for handle in handles] == ["cancelled", "cancelled", "queued"]
    assert server.eval("HANDLES[id].cancel()", id=handles[0]["id"]) is False
    server.eval("resume()")
    server.ledger.wait_one("ran", tag=2)
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1
    assert server.eval("control.counters()['refused']") == 0


# drain


@both
def test_given_a_task_in_hand_when_drained_then_it_waits_and_tells_whether_it_ended(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true")
    call(server, "holder", executor)
    server.ledger.wait("held")
    started = time.monotonic()
    assert server.eval("drain(timedelta(seconds=0.5))") is False
    assert time.monotonic() - started >= 0.5
    call(server, "ran", executor)
    server.touch("go")
    assert server.eval("drain(10)") is True
    assert len(server.ledger.rows("ended")) == 1
    assert server.eval("(control.paused(), control.busy())") == [True, 0]
    assert server.ledger.rows("ran") == []
    server.eval("resume()")
    server.ledger.wait_one("ran")


SLOWLY = """
import os
from uwsgi_tasks import inflight

_begin = inflight.Inflight.begin

def begin(self, *what):
    path = os.path.join(os.environ["TEST_DIR"], "slowly")
    if os.path.exists(path):
        os.unlink(path)
        note("about to begin")
        wait_for_file("begin")
    _begin(self, *what)

inflight.Inflight.begin = begin
"""


@both
def test_given_a_process_about_to_begin_a_task_when_drained_then_it_doesnt_begin_it(
    uwsgi, executor
):
    server = uwsgi(SLOWLY + APP, "mule = true")
    server.touch("slowly")
    call(server, "ran", executor)
    server.ledger.wait("about to begin")
    assert server.eval("drain(10)") is True  # whoever drained may stop the server now
    server.touch("begin")
    later(0.5)
    assert server.ledger.rows("ran") == []
    server.eval("resume()")
    server.ledger.wait_one("ran", timeout=8)
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1


@both
def test_given_a_task_that_drains_then_it_waits_for_others_and_not_for_itself(uwsgi, executor):
    server = uwsgi(APP, "mules = 2", "spooler-processes = 2")
    call(server, "holder", executor)
    server.ledger.wait("held")
    call(server, "drains", executor)
    wait_until(lambda: server.eval("control.paused()"))
    assert server.ledger.rows("drained") == []
    server.touch("go")
    row = server.ledger.wait_one("drained")
    assert row["result"] is True
    assert row["took"] < 15


def test_given_nothing_in_hand_when_drained_then_it_returns_at_once(uwsgi):
    server = uwsgi(APP, "mule = true")
    assert server.eval("drain(0)") is True


def test_given_a_shell_outside_when_it_drains_then_it_waits_for_the_servers_tasks(uwsgi, shell):
    server = uwsgi(APP)
    server.call("holder")
    server.ledger.wait("held")
    code = f"import uwsgi_tasks as u; u.configure(home={str(server.home)!r}); print(u.drain(0.2))"
    assert shell(server, code) == "False"
    server.touch("go")
    assert shell(server, code.replace("0.2", "10")) == "True"


# reload

FIFO = "master-fifo = {dir}/fifo"


def reload(server, shell, how, timeout):
    """Reload by the API; return what it told."""
    if how != "outside":
        return server.eval(f"control.reload({timeout})")
    home, fifo = str(server.home), str(server.dir / "fifo")
    code = (
        f"import uwsgi_tasks as u; u.configure(home={home!r});"
        f" print(u.control.reload({timeout}, fifo={fifo!r}))"
    )
    return shell(server, code) == "True"


ways = pytest.mark.parametrize("how", ["uwsgi.reload", "fifo", "outside"])


@ways
@both
def test_given_a_task_in_hand_when_reloaded_then_it_ends_first_and_what_waits_runs_afterwards(
    uwsgi, shell, how, executor
):
    server = uwsgi(APP, "mule = true", *([] if how == "uwsgi.reload" else [FIFO]), "workers = 2")
    call(server, "holder", executor)
    pid = server.ledger.wait_one("held")["pid"]
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(reload, server, shell, how, 20)
        wait_until(lambda: server.eval("control.paused()"))
        server.call("ran", "waits")
        server.touch("go")
        assert told.result() is True
    wait_until(lambda: starts(server) == 2, what="the reload")
    row = server.ledger.wait_one("ran", tag="waits")
    assert row["pid"] != pid
    assert [row["again"] for row in server.ledger.rows("held")] == [False]
    assert len(server.ledger.rows("ended")) == 1
    call(server, "ran", executor, "after")
    server.ledger.wait_one("ran", tag="after")
    assert server.eval("control.paused()") is False
    counted = server.eval("control.counters()")
    assert (counted["crashed"], counted["interrupted"]) == (0, 0)


def test_given_a_spooler_that_dies_when_a_reload_waits_then_nothing_is_taken_before_the_reload(
    uwsgi, shell
):
    server = uwsgi(APP, "mule = true", "workers = 2", FIFO)
    call(server, "holder", "MULE")
    server.ledger.wait("held")
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(reload, server, shell, "outside", 20)
        wait_until(lambda: server.eval("control.paused()"))
        (spooler,) = server.pids("spooler")
        server.kill(spooler)  # the next one keeps time
        server.call("ran")
        wait_until(lambda: taken(server) == 1)
        later(0.3)
        assert server.ledger.rows("ran") == []
        server.touch("go")
        assert told.result() is True
    wait_until(lambda: starts(server) == 2, what="the reload")
    server.ledger.wait_one("ran")


@ways
def test_given_a_task_that_doesnt_end_when_reload_times_out_then_the_server_goes_on(
    uwsgi, shell, how
):
    server = uwsgi(APP, FIFO, "spooler-processes = 2")
    server.call("holder")
    server.ledger.wait("held")
    assert reload(server, shell, how, 0.3) is False
    server.call("ran")
    server.ledger.wait_one("ran", timeout=8)
    assert (starts(server), server.eval("control.paused()")) == (1, False)
    server.touch("go")
    server.ledger.wait_one("ended")


@pytest.mark.parametrize("how", ["uwsgi.reload", "outside", "SIGHUP"])
def test_given_a_users_pause_when_reloaded_then_it_still_holds(uwsgi, shell, how):
    server = uwsgi(APP, *([FIFO] if how == "outside" else []))
    server.eval("pause()")
    server.call("ran")
    before = taken(server)
    if how == "SIGHUP":
        server.reload()
    else:
        assert reload(server, shell, how, 5)
        wait_until(lambda: starts(server) == 2, what="the reload")
    wait_until(lambda: taken(server) > before, what="the new spooler has the file")
    assert server.eval("control.paused()") is True
    assert server.ledger.rows("ran") == []
    server.eval("resume()")
    server.ledger.wait_one("ran", timeout=8)


@both
def test_given_a_task_that_reloads_then_it_is_told_that_this_would_interrupt_it(uwsgi, executor):
    server = uwsgi(APP, "mule = true", FIFO)
    call(server, "reloads", executor)
    assert server.ledger.wait_one("refused")["kind"] == "NotAvailable"
    assert (starts(server), server.eval("control.paused()")) == (1, False)


@pytest.mark.parametrize("paused", [True, False])
def test_given_no_master_at_the_fifo_when_reloaded_then_it_is_told_and_the_pause_is_as_before(
    uwsgi, paused
):
    server = uwsgi(APP)
    os.mkfifo(server.dir / "nobodys")
    if paused:
        server.eval("pause()")
    with pytest.raises(RemoteError, match="nobodys") as caught:
        server.eval("control.reload(5, fifo=path)", path=str(server.dir / "nobodys"))
    assert caught.value.kind == "NotAvailable"
    assert server.eval("control.paused()") is paused


def test_given_a_shell_outside_without_a_fifo_when_it_reloads_then_the_error_names_the_option(
    uwsgi, shell
):
    server = uwsgi(APP)
    code = (
        f"import uwsgi_tasks as u; u.configure(home={str(server.home)!r})\n"
        "try:\n    u.control.reload()\nexcept u.NotAvailable as error:\n    print(error)"
    )
    assert "master-fifo" in shell(server, code)
    assert server.eval("control.paused()") is False


@pytest.mark.slow
def test_given_reloads_in_a_row_when_tasks_come_all_the_time_then_each_runs_once(uwsgi):
    server = uwsgi(APP, FIFO, "spooler-processes = 2")
    for number in range(5):
        server.call("call_many", 40)
        assert server.eval("control.reload(20)") is True
        wait_until(lambda count=number: starts(server) == count + 2, what="the reload")
        wait_until(lambda: answers(server))
    server.ledger.wait("ran", count=200, timeout=20)
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 200
    assert server.eval("control.counters()")["interrupted"] == 0


def answers(server):
    try:
        return server.eval("True")
    except OSError:
        return False
