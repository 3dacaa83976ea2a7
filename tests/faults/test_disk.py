"""A full disk and no descriptors: nothing is lost, nothing runs twice, nobody is killed by it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess

import pytest

from tests.support import processes
from tests.support.ledger import wait_until
from tests.support.server import RemoteError

MUCH = 1 << 20
APP = """
import os, resource, time
from uwsgi_tasks import get_current_task, task, TaskExecutor, timekeeper

SPOOLER, MULE = TaskExecutor.SPOOLER, TaskExecutor.MULE
timekeeper._AFTER_ERROR_S = timekeeper._LONGEST_SLEEP_S = 0.2

def tell(name):
    note("ran", name=name, attempt=get_current_task().attempt)

@task(executor=SPOOLER, retry_count=3)
def fails_twice(data):
    tell("fails_twice")
    if get_current_task().attempt < 3:
        raise KeyError("no")

@task(executor=SPOOLER)
def fails(data):
    tell("fails")
    raise KeyError("no")

@task(executor=SPOOLER)
def good(data=b""):
    tell("good")

@task(executor=MULE)
def fails_in_mule(data):
    tell("fails_in_mule")
    raise KeyError("no")

@task(executor=SPOOLER, retry_count=3)
def starves():
    tell("starves")
    if get_current_task().attempt == 1:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        raise KeyError("no")

def much():
    return os.urandom(1 << 20)

def without_descriptors(call):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""


class Tmpfs:
    """A small file system for the spool, with the home in it."""

    def __init__(self, server):
        self.server, self.path = server, server.spool
        self.filler = self.path / "filler"
        self.path.mkdir()
        options = f"size=12m,mode=0755,uid={os.getuid()},gid={os.getgid()}"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"a tmpfs can't be mounted: {mounted.stderr.decode().strip()}")

    def fill(self):
        """Leave no room at all."""
        with open(self.filler, "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self):
        self.filler.unlink(missing_ok=True)

    def close(self):
        subprocess.run(["umount", "-l", str(self.path)], check=True)


class FileSizes:
    """What its processes write may be no larger than 64 KiB."""

    def __init__(self, server):
        self.server = server

    def fill(self):
        self._limit(1 << 16)

    def free(self):
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size):
        for kind in ("worker", "spooler", "mule"):
            for pid in self.server.pids(kind):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def close(self):
        pass


@pytest.fixture(params=[Tmpfs, FileSizes], ids=["full file system", "file sizes"])
def room(request, uwsgi):
    """A disk that can be filled, and the server on it; all its processes have to live on."""
    server = uwsgi(APP, "mule = true", started=False)
    found = request.param(server)
    try:
        server.start()
        kinds = ("worker", "spooler", "mule")
        wait_until(lambda: all(map(server.pids, kinds)), what="all processes are there")
        before = {kind: server.pids(kind) for kind in kinds}
        yield found
        assert {kind: server.pids(kind) for kind in before} == before, server.explain()
        assert not [word for word in ("SIGBUS", "Bus error") if word in server.log()]
    finally:
        server.close()
        found.close()
        with contextlib.suppress(OSError):
            os.rmdir(server.spool)
            os.rmdir(server.dir)


def submitted(server):
    """Return the files that a call may leave: what is queued, and what is half written."""
    others = ("store.db", "server.json")  # what the timekeeper writes meanwhile
    half = [p for p in server.home.glob(".*") if not any(name in p.name for name in others)]
    return {path for path in (*server.spool.iterdir(), *half) if path.name != "filler"}


def runs(server, name):
    return [row["attempt"] for row in server.ledger.rows("ran", name=name)]


def wake(server, times=1):
    """Let the spoolers look into the spool again, and see that they did."""
    for _ in range(times):
        for pid in server.pids("spooler"):
            server.kill(pid, signal.SIGUSR1)
            quiet = f"/proc/{pid}/wchan"
            if os.path.exists(quiet):
                wait_until(lambda pid=pid: processes._stat(pid)[:1] == ["S"])


CALLS = [
    "good(much())",
    "good.options(at=time.time() + 60)(much())",
    "good.options(priority=5)(much())",
]


@pytest.mark.parametrize("call", CALLS, ids=["plain", "delayed", "prioritised"])
def test_given_a_full_disk_when_called_then_it_is_not_available_and_nothing_is_left(room, call):
    server = room.server
    server.eval("good.options(at=time.time() + 3600)()")  # the store is there
    before = submitted(server)
    room.fill()
    with pytest.raises(RemoteError) as caught:
        server.eval(call)
    room.free()
    assert "NotAvailable" in caught.value.kinds
    assert submitted(server) == before
    server.call("good")
    server.ledger.wait("ran", name="good")


def queue_and_fill(room, *codes):
    server = room.server
    server.eval("good.options(at=time.time() + 3600)()")
    server.freeze()
    handles = [server.eval(code) for code in codes]
    room.fill()
    server.thaw()
    return server, handles


def test_given_a_full_disk_when_a_retry_is_due_then_it_waits_for_room_and_is_not_run_meanwhile(
    room,
):
    server, (handle,) = queue_and_fill(room, "fails_twice(much())")
    server.wait_log("stays in the spool")
    wake(server, 10)
    assert runs(server, "fails_twice") == [1]
    assert len(server.spool_files()) == 1
    room.free()
    wake(server)
    server.ledger.wait("ran", name="fails_twice", count=3)
    server.wait_empty()
    assert runs(server, "fails_twice") == [1, 2, 3]
    assert server.status(handle) == "ok"


def test_given_a_full_disk_when_a_task_died_then_its_letter_waits_for_room(room):
    server, (handle,) = queue_and_fill(room, "fails(much())")
    server.wait_log("stays in the spool")
    wake(server, 10)
    assert (runs(server, "fails"), server.letters()) == ([1], {})
    assert len(server.spool_files()) == 1
    room.free()
    wake(server)
    letter = server.wait_letter(handle["id"])
    server.wait_empty()
    assert (runs(server, "fails"), letter["reason"]) == ([1], "it raised an exception")
    size = (server.home / "dead" / f"{handle['id']}.message").stat().st_size
    assert size > MUCH, "the letter is whole"


def test_given_a_full_disk_when_one_cannot_be_settled_then_the_others_run(room):
    server, _ = queue_and_fill(room, "fails(much())", *["good()"] * 20)
    server.ledger.wait("ran", name="good", count=20)
    server.wait_log("stays in the spool")
    assert (runs(server, "fails"), len(server.spool_files())) == ([1], 1)
    room.free()
    wake(server)
    server.wait_letter()
    server.wait_empty()
    assert runs(server, "good") == [1] * 20


def test_given_a_full_disk_when_the_spooler_dies_then_what_ran_runs_again_once_there_is_room(uwsgi):
    server = uwsgi(APP)
    room = FileSizes(server)
    server, (handle,) = queue_and_fill(room, "fails(much())")
    server.wait_log("stays in the spool")
    (pid,) = server.pids("spooler")
    server.kill(pid)  # the next one has no limit
    letter = server.wait_letter(handle["id"])
    server.wait_empty()
    assert runs(server, "fails") == [1, 1]
    assert letter["attempts"][0]["pid"] == pid


def test_given_a_full_disk_when_a_mules_task_died_then_its_letter_is_written_later(room):
    server = room.server
    server.call("good")
    server.ledger.wait("ran", name="good")
    room.fill()
    if isinstance(room, FileSizes):
        room._limit(0 if False else 1 << 12)
    handle = server.eval("fails_in_mule(os.urandom(50_000))")
    server.ledger.wait("ran", name="fails_in_mule")
    server.wait_log("lost|can't be written|No space|too large")
    room.free()
    server.eval("fails_in_mule(b'')")
    assert server.wait_letter(handle["id"])["reason"] == "it raised an exception"


def test_given_a_disk_that_is_full_at_the_start_when_there_is_room_then_tasks_run(uwsgi):
    server = uwsgi(APP, started=False)
    room = Tmpfs(server)
    try:
        room.fill()
        server.start()
        with pytest.raises(RemoteError) as caught:
            server.call("good")
        assert "UwsgiTasksError" in caught.value.kinds
        room.free()
        server.call("good")
        server.ledger.wait("ran", name="good")
    finally:
        server.close()
        room.close()
        os.rmdir(server.spool)
        os.rmdir(server.dir)


# descriptors


@pytest.mark.parametrize("call", CALLS, ids=["plain", "delayed", "prioritised"])
def test_given_no_descriptors_in_the_caller_when_called_then_it_is_not_available(uwsgi, call):
    server = uwsgi(APP)
    before = submitted(server)
    with pytest.raises(RemoteError) as caught:
        server.eval(f"without_descriptors(lambda: {call})")
    assert "NotAvailable" in caught.value.kinds
    assert os.strerror(errno.EMFILE) in caught.value.message or "open" in caught.value.message
    assert submitted(server) == before
    server.eval(call.replace("60", "0"))
    server.ledger.wait("ran", name="good")


def test_given_no_descriptors_in_the_spooler_when_there_are_some_again_then_tasks_run(uwsgi):
    server = uwsgi(APP, "spooler-frequency = 1")
    (pid,) = server.pids("spooler")
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, most))
    for _ in range(5):
        server.call("good")
    server.wait_log("Too many open files")
    assert runs(server, "good") == []
    if pid in server.pids("spooler"):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    server.ledger.wait("ran", name="good", count=5)
    server.wait_empty()
    assert runs(server, "good") == [1] * 5


def test_given_a_task_that_uses_up_the_descriptors_when_it_fails_then_it_is_retried(uwsgi):
    server = uwsgi(APP, "spooler-frequency = 1")
    server.call("starves")
    server.ledger.wait("ran", name="starves")
    (pid,) = server.pids("spooler") or [0]
    with contextlib.suppress(ProcessLookupError):
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    server.ledger.wait("ran", name="starves", attempt=2)
    server.wait_empty()
    assert runs(server, "starves")[-1] == 2
