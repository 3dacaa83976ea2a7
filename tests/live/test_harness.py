"""The harness itself, on a uWSGI that has nothing of the library in it."""

from __future__ import annotations

import signal

import pytest

from tests.support import processes
from tests.support.ledger import wait_until
from tests.support.server import RemoteError

RAW = """
import os, subprocess, uwsgi

def on_spool(env):
    note("ran", body=env["body"].decode())
    if env["body"] == b"child":
        subprocess.Popen(["sleep", "60"])
    return uwsgi.SPOOL_OK

uwsgi.spooler = on_spool

def spool(text):
    return uwsgi.spool({b"body": text.encode()}).decode()

def fail():
    raise KeyError("no")
"""


def test_given_a_raw_server_when_a_task_is_spooled_then_the_ledger_tells(uwsgi):
    server = uwsgi(RAW)
    server.call("spool", "hello")
    row = server.ledger.wait_one("ran")
    assert (row["body"], [row["pid"]]) == ("hello", server.pids("spooler"))


def test_given_a_function_that_raises_when_called_then_the_test_sees_the_exception(uwsgi):
    server = uwsgi(RAW, spooler=False)
    with pytest.raises(RemoteError) as caught:
        server.call("fail")
    assert caught.value.kinds[:2] == ["KeyError", "LookupError"]


def test_given_mules_and_spoolers_when_up_then_their_pids_are_known(uwsgi):
    server = uwsgi(RAW, "mules = 2", "spooler-processes = 2")

    def counts():
        return [len(server.pids(kind)) for kind in ("worker", "mule", "spooler")]

    wait_until(lambda: counts() == [1, 2, 2], what="uWSGI has told of all of them")


def test_given_a_killed_spooler_when_respawned_then_its_new_pid_is_known(uwsgi):
    server = uwsgi(RAW)
    (old,) = server.pids("spooler")
    server.kill(old, signal.SIGKILL)
    server.call("spool", "after")
    assert server.ledger.wait_one("ran")["pid"] in set(server.pids("spooler")) - {old}


def test_given_a_reload_when_up_again_then_it_serves(uwsgi):
    server = uwsgi(RAW)
    old = server.eval("os.getpid()")
    server.reload()
    assert server.eval("os.getpid()") != old


def test_given_a_task_that_left_a_child_when_stopped_then_the_stop_fails_and_kills_it(uwsgi):
    server = uwsgi(RAW)
    server.call("spool", "child")
    server.ledger.wait("ran")
    server.wait_empty()
    (child,) = [pid for pid in server.all_pids() if "sleep 60" in processes.command(pid)]
    with pytest.raises(AssertionError, match="left running"):
        server.stop()
    assert not processes.is_alive(child)


def test_given_kill_everything_when_started_again_then_what_lay_in_the_spool_runs(uwsgi):
    server = uwsgi(RAW)
    server.freeze()
    server.call("spool", "later")
    server.kill_everything()
    server.start_again()
    server.ledger.wait_one("ran", body="later")
