"""durability: what is flushed to the disk before a call returns, and what goes to a mule."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os, time
from uwsgi_tasks import RetryTaskException, TaskExecutor, configure, control, get_current_task, task

_fsync = os.fsync

def fsync(descriptor):
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    spool = os.path.join(os.environ["TEST_DIR"], "spool")
    there = [name for name in os.listdir(spool) if name.startswith("uwsgi_spoolfile_on_")]
    note("fsync", path=path, size=os.fstat(descriptor).st_size, there=there, place=place())
    _fsync(descriptor)

os.fsync = fsync

@task
def ran(tag="x"):
    note("ran", tag=tag, place=place())

@task(durability="disk")
def safe(tag="x"):
    note("ran", tag=tag, place=place())

@task(durability="disk", retry_count=2)
def fails():
    note("failed", attempt=get_current_task().attempt)
    raise KeyError("no")

@task(durability="memory")
def cheap(tag="x"):
    note("ran", tag=tag, place=place())

def declare(**options):
    task(name="declared", **options)(lambda: None)
"""


def flushed(server, place):
    """Return what was flushed in a process, as paths below the spool directory."""
    rows = server.ledger.rows("fsync", place=place)
    return [os.path.relpath(row["path"], server.spool.resolve()) for row in rows]


# disk


@pytest.mark.parametrize("how", ["option", "call", "setting"])
def test_given_disk_when_called_then_file_and_directory_are_flushed_before_it_returns(uwsgi, how):
    lines = ["set-ph = tasks-durability=disk"] * (how == "setting")
    server = uwsgi(APP, *lines)
    server.freeze()
    code = {"option": "safe()", "call": "ran.options(durability='disk')()", "setting": "ran()"}
    handle = server.eval(code[how])
    file, directory = server.ledger.rows("fsync", place="worker")
    name = f"uwsgi_spoolfile_on_{handle['id']}.1"
    assert flushed(server, "worker") == [f".{name}", "."]
    assert file["size"] > 0
    assert (file["there"], directory["there"]) == ([], [name])  # whole before it has its name
    server.thaw()
    assert server.ledger.wait_one("ran")["place"] == "spooler"


def test_given_no_disk_when_called_then_nothing_is_flushed(uwsgi):
    server = uwsgi(APP)
    server.call("ran")
    server.ledger.wait("ran")
    server.wait_empty()
    assert server.ledger.rows("fsync") == []


def test_given_disk_when_a_delayed_call_is_due_then_its_file_is_flushed(uwsgi):
    server = uwsgi(APP)
    handle = server.eval("safe.options(at=time.time() + 0.3)()")
    server.ledger.wait_one("ran")
    paths = flushed(server, "spooler")
    assert re.fullmatch(rf"\.uwsgi_spoolfile_on_{handle['id']}\.1\.\d+", paths[0])
    assert paths[1] == "."


def test_given_disk_when_a_task_fails_for_good_then_each_state_of_it_is_flushed(uwsgi):
    server = uwsgi(APP)
    handle = server.call("fails")
    server.wait_letter(handle["id"])
    server.wait_empty()
    second = [p for p in flushed(server, "spooler") if f"{handle['id']}.2" in p]
    assert len(second) == 1
    letter = [p for p in flushed(server, "spooler") if p.startswith(".uwsgi_tasks/dead")]
    names = {os.path.basename(path).lstrip(".").rpartition(".")[0] for path in letter}
    assert ".uwsgi_tasks/dead" in letter  # the directory, after both files
    assert {f"{handle['id']}.json", f"{handle['id']}.message"} <= names


class Strace:
    """What a process asks the kernel to flush, seen from outside."""

    def __init__(self, pid, path):
        command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", path, "-p", str(pid)]
        self.path = path
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.told = self.process.stderr.readline()

    def calls(self):
        return self.path.read_text().splitlines()

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        self.process.stderr.close()


@pytest.fixture
def strace(tmp_path):
    with contextlib.ExitStack() as stack:

        def attach(pid):
            if not shutil.which("strace"):
                pytest.skip("strace isn't installed")
            tracer = Strace(pid, tmp_path / "strace")
            stack.callback(tracer.close)
            if "attached" not in tracer.told:
                pytest.skip(f"strace may not attach here: {tracer.told.strip()}")
            return tracer

        yield attach


@pytest.mark.parametrize(("task", "expected"), [("safe", True), ("ran", False)])
def test_given_disk_when_a_delayed_call_returns_then_its_row_is_flushed(
    uwsgi, strace, task, expected
):
    server = uwsgi(APP)
    server.eval("ran.options(at=time.time() + 600)()")  # the store is made
    (worker,) = server.pids("worker")
    tracer = strace(worker)
    server.eval(f"{task}.options(at=time.time() + 600)()")
    assert any("store.db-wal" in call for call in tracer.calls()) is expected


def test_given_disk_when_everything_is_killed_then_the_call_runs_after_the_start(uwsgi):
    server = uwsgi(APP)
    server.freeze()
    server.call("safe")
    server.eval("safe.options(at=time.time() + 0.1)('delayed')")
    server.kill_everything()
    server.start_again()
    rows = server.ledger.wait("ran", count=2)
    assert sorted(row["tag"] for row in rows) == ["delayed", "x"]


def test_given_disk_when_there_is_no_spooler_then_it_doesnt_go_to_a_mule(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.call("safe")
    assert server.ledger.wait_one("ran")["place"] == "worker"
    with pytest.raises(RemoteError) as caught:
        server.eval("safe.options(strict=True, executor=TaskExecutor.SPOOLER)()")
    assert caught.value.kind == "NotAvailable"


# memory


@pytest.mark.parametrize("how", ["option", "call", "setting"])
def test_given_memory_when_there_is_a_spooler_too_then_a_mule_runs_it(uwsgi, how):
    lines = ["set-ph = tasks-durability=memory"] * (how == "setting")
    server = uwsgi(APP, "mule = true", *lines)
    wait_until(lambda: server.pids("mule"))
    code = {"option": "cheap()", "call": "ran.options(durability='memory')()", "setting": "ran()"}
    assert server.eval(code[how])["executor"] == "MULE"
    assert server.ledger.wait_one("ran")["place"] == "mule1"


def test_given_the_setting_memory_when_a_task_asks_for_the_spooler_then_it_gets_it(uwsgi):
    server = uwsgi(APP, "mule = true", "set-ph = tasks-durability=memory")
    server.eval("ran.options(executor=TaskExecutor.SPOOLER)()")
    assert server.ledger.wait_one("ran")["place"] == "spooler"


# what contradicts itself


@pytest.mark.parametrize(("durability", "executor"), [("memory", "SPOOLER"), ("disk", "MULE")])
@pytest.mark.parametrize("where", ["decorator", "call"])
def test_given_a_durability_that_the_executor_hasnt_then_it_is_refused(
    uwsgi, where, durability, executor
):
    server = uwsgi(APP, "mule = true")
    code = {
        "decorator": "declare(durability=durability, executor=executor)",
        "call": "ran.options(durability=durability, executor=executor)()",
    }
    with pytest.raises(RemoteError, match=durability) as caught:
        server.eval(code[where], durability=durability, executor=executor)
    assert caught.value.kind == "OptionValueError"
    assert "ValueError" in caught.value.kinds
    assert server.ledger.rows("ran") == []
