"""What is over stays over: killed before the file is gone, a file that can't go, a replay."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ledger import wait_until

APP = """
import os, signal, subprocess, time
import uwsgi
from uwsgi_tasks import RetryTaskException, TaskExecutor, control, get_current_task, task
from uwsgi_tasks import inflight, server, timekeeper
from uwsgi_tasks.executors import network
from uwsgi_tasks.executors.spooler import remove_unlocked

timekeeper._PRUNE_EVERY_S = 0.2
timekeeper._LONGEST_SLEEP_S = 0.2
CAPTURED = []

def once(name):
    '''Tell whether the test put that file there, and take it away.'''
    try:
        os.unlink(os.path.join(os.environ["TEST_DIR"], name))
        return True
    except OSError:
        return False

_end, _send, _exchange = inflight.Inflight.end, server.Uwsgi.send_to_mule, network._exchange

def end(self, ident, delivery, state):
    if once("kill before"):
        os.kill(os.getpid(), signal.SIGKILL)
    _end(self, ident, delivery, state)
    if once("kill after"):
        os.kill(os.getpid(), signal.SIGKILL)
    if once("hold after"):
        note("over", pid=os.getpid())
        wait_for_file("go")

def send(self, data, mule):
    CAPTURED.append((data, mule))
    return _send(self, data, mule)

def exchange(target, packet):
    CAPTURED.append(packet)
    return _exchange(target, packet)

inflight.Inflight.end, server.Uwsgi.send_to_mule, network._exchange = end, send, exchange

def tell(event, **fields):
    this = get_current_task()
    note(event, id=this.id, attempt=this.attempt, again=this.redelivered, **fields)

@task
def ran(number=0):
    tell("ran", number=number)

@task(retry_count=2)
def fails(times=2):
    tell("failed")
    if get_current_task().attempt <= times:
        raise RetryTaskException()

@task
def holder(name="go"):
    tell("held")
    wait_for_file(name)

@task
def shuts(command, path):
    tell("ran")
    subprocess.run([*command, path], check=True)

def send_again():
    return uwsgi.mule_msg(CAPTURED[0][0])

def refused():
    return control.counters()["refused"]
"""
CAME_AGAIN = "its file came again"
STUCK = "can't be removed, and its task is over"


def call(server, name, *args, **options):
    code = f"{name}.options(**options)(*args)"
    return server.eval(code, options={"executor": "SPOOLER", **options}, args=args)


def file_of(server, handle, delivery=1):
    return server.spool / f"uwsgi_spoolfile_on_{handle['id']}.{delivery}"


def counted(server, text):
    """Return how often something was logged, in all lives of the server."""
    logs = [path.read_text() for path in [*server.past_logs(), server.log_path]]
    return sum(log.count(text) for log in logs)


# killed between the end and the removal of the file


@pytest.mark.parametrize("how", ["alone", "with everything"])
def test_given_a_spooler_killed_after_the_record_then_the_task_isnt_run_again(uwsgi, how):
    server = uwsgi(APP)
    server.touch("kill after" if how == "alone" else "hold after")
    handle = call(server, "ran")
    if how == "with everything":
        server.ledger.wait_one("over")
        server.kill_everything()
        server.start_again()
    server.wait_empty()
    assert server.ledger.wait_one("ran")["id"] == handle["id"]
    assert (counted(server, CAME_AGAIN), server.eval("refused()")) == (1, 1)
    assert server.status(handle) == "ok" if how == "alone" else True
    call(server, "ran", 2)
    server.ledger.wait_one("ran", number=2)


def test_given_a_spooler_killed_before_the_record_then_it_runs_again_and_knows(uwsgi):
    server = uwsgi(APP)
    server.touch("kill before")
    call(server, "ran")
    rows = server.ledger.wait("ran", count=2)
    server.wait_empty()
    assert [row["again"] for row in server.ledger.rows("ran")] == [False, True]
    assert [row["attempt"] for row in rows] == [1, 1]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("when", ["kill before", "kill after"])
def test_given_a_spooler_killed_beside_the_record_of_a_retry_then_no_attempt_is_added(
    uwsgi, when, times
):
    server = uwsgi(APP)
    server.touch(when)
    handle = call(server, "fails", times)
    server.ledger.wait("failed", count=2)
    wait_until(lambda: not (server.dir / when).exists(), what="it was killed")
    if times == 2:
        server.wait_letter(handle["id"])
    server.wait_empty()
    rows = server.ledger.rows("failed")
    assert [row["attempt"] for row in rows] == [1, 2]
    assert len(server.letters()) == (times == 2)


@pytest.mark.parametrize("when", ["kill before", "kill after"])
def test_given_a_spooler_killed_beside_the_record_of_a_death_then_it_is_dead_once(uwsgi, when):
    server = uwsgi(APP)
    server.touch(when)
    handle = call(server, "fails", 1, retry_count=1)
    server.wait_letter(handle["id"])
    server.wait_empty()
    assert len(server.ledger.rows("failed")) == 1
    assert list(server.letters()) == [handle["id"]]
    assert server.status(handle) == "dead"


# a file that can't be removed


def why_not_ordinary():
    """Return why no server can run as an ordinary user here."""
    if os.getuid():
        return ""
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{sys.base_prefix} can't be read by nobody"
    return ""


@pytest.fixture
def ordinary(uwsgi):
    """A server that runs as an ordinary user, whom modes hold."""
    if why_not_ordinary():
        pytest.skip(why_not_ordinary())
    if os.getuid():
        return uwsgi(APP, "spooler-ordered = true")
    nobody = pwd.getpwnam("nobody")
    uid, gid = nobody.pw_uid, nobody.pw_gid
    lines = ["spooler-ordered = true", f"uid = {uid}", f"gid = {gid}"]
    server = uwsgi(APP, *lines, started=False, owner=(uid, gid))
    server.spool.mkdir()
    os.chown(server.spool, uid, gid)
    return server.start()


@pytest.fixture
def writable():
    """Directories that are made writable again after the test."""
    paths = []
    yield paths
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o755)


def looked_at(server):
    return server.log().count("managing request")


def test_given_a_readonly_spool_when_a_task_is_over_then_its_file_is_passed_over_until_it_can_go(
    ordinary, writable
):
    server = ordinary
    writable.append(server.spool)
    handle = call(server, "shuts", ["chmod", "0555"], str(server.spool))
    stuck = file_of(server, handle)
    server.wait_log(STUCK)
    for _ in range(3):  # over scans, a respawn of the spooler, and a restart
        before = looked_at(server)
        (spooler,) = wait_until(lambda: server.pids("spooler"))
        server.kill(spooler)
        wait_until(lambda n=before: looked_at(server) > n, what="the next spooler saw it")
    if os.getuid() == 0:  # uWSGI doesn't start on a directory that its user can't write to
        server.restart()
    wait_until(lambda: looked_at(server), what="the next server saw it")
    assert stuck.exists()
    assert (len(server.ledger.rows("ran")), counted(server, STUCK)) == (1, 1)
    assert server.eval("control.counters()['passed_over']") == 1
    server.spool.chmod(0o755)
    wait_until(lambda: not stuck.exists(), what="the timekeeper has removed it")
    call(server, "ran", 2)
    server.ledger.wait_one("ran", number=2)
    assert len(server.ledger.rows("ran")) == 2


def test_given_a_readonly_spool_when_others_lie_there_then_each_of_them_runs_once(
    ordinary, writable
):
    server = ordinary
    writable.append(server.spool)
    server.freeze()
    call(server, "shuts", ["chmod", "0555"], str(server.spool))
    for number in range(3):
        call(server, "ran", number)
    server.thaw()
    wait_until(lambda: counted(server, STUCK) == 4, timeout=25, what="all are passed over")
    assert sorted(row.get("number", -1) for row in server.ledger.rows("ran")) == [-1, 0, 1, 2]
    server.spool.chmod(0o755)
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 4


def change(attribute, path):
    """Change an attribute of a file that may be gone; tell whether that went well."""
    done = subprocess.run(["chattr", attribute, str(path)], capture_output=True, check=False)
    return done.returncode == 0


def changes_attributes(path):
    """Tell whether files can be made immutable here."""
    if os.getuid() or not shutil.which("chattr"):
        return False
    probe = Path(path, "probe")
    probe.touch()
    changed = change("+i", probe)
    change("-i", probe)
    return changed


@pytest.fixture
def attributed(uwsgi):
    """A server whose files may get attributes; they are taken away before it is."""
    server = uwsgi(APP)
    if not changes_attributes(server.dir):
        pytest.skip("no root, no chattr, or a file system that doesn't know it")
    yield server
    change("-a", server.spool)
    for path in server.spool_files():
        change("-i", path)


@pytest.mark.parametrize("what", ["the file is immutable", "the directory is append-only"])
def test_given_a_file_that_root_cant_remove_when_its_task_is_over_then_it_isnt_run_again(
    attributed, what
):
    server = attributed
    (first,) = server.pids("spooler")
    command = "chattr +i $0/uwsgi_spoolfile_on_*" if "file" in what else "chattr +a $0"
    handle = call(server, "shuts", ["sh", "-c", command], str(server.spool))
    stuck = file_of(server, handle)
    wait_until(lambda: first not in server.pids("spooler"), what="uWSGI couldn't remove it")
    if "directory" in what:
        server.wait_log(STUCK)
    (second,) = wait_until(lambda: server.pids("spooler"))
    server.kill(second)
    wait_until(lambda: set(server.pids("spooler")) - {second})
    assert stuck.exists()
    assert len(server.ledger.rows("ran")) == 1
    change("-a", server.spool)
    change("-i", stuck)
    call(server, "ran", 2)
    server.ledger.wait_one("ran", number=2)
    wait_until(lambda: not stuck.exists(), what="it is removed when it can be")
    assert len(server.ledger.rows("ran")) == 2
    assert counted(server, STUCK) == ("directory" in what)


# replay


def look(server):
    """Let the spooler look into its directory."""
    for pid in server.pids("spooler"):
        os.kill(pid, 10)


@pytest.mark.parametrize("name", ["its own", "another"])
@pytest.mark.parametrize("end", ["ok", "dead", "expired", "cancelled"])
def test_given_a_captured_spool_file_when_it_comes_again_after_its_end_then_it_is_refused(
    uwsgi, end, name
):
    server = uwsgi(APP)
    server.freeze()
    if end == "dead":
        handle = call(server, "fails", 1, retry_count=1)
    else:
        handle = call(server, "ran", **({"expires": 0.05} if end == "expired" else {}))
    path = file_of(server, handle)
    captured = path.read_bytes()
    if end == "cancelled":
        assert server.eval("HANDLES[id].cancel()", id=handle["id"])
    if end == "expired":
        server.eval("time.sleep(0.05)")
    server.thaw()
    server.wait_empty()
    runs = len(server.ledger.rows())
    again = path if name == "its own" else path.with_name("uwsgi_spoolfile_on_captured")
    temporary = server.dir / "copy"
    temporary.write_bytes(captured)
    temporary.rename(again)
    look(server)
    wait_until(lambda: server.eval("refused()") == 1, what="it is refused")
    server.wait_empty()
    assert runs == len(server.ledger.rows()) == (0 if end in ("expired", "cancelled") else 1)
    assert set(server.letters()) == ({handle["id"]} if end in ("dead", "expired") else set())


def test_given_a_captured_spool_file_when_it_comes_again_while_it_runs_then_it_runs_once(uwsgi):
    server = uwsgi(APP, "spooler-processes = 2")
    handle = call(server, "holder")
    server.ledger.wait("held")
    path = file_of(server, handle)
    temporary = server.dir / "copy"
    temporary.write_bytes(path.read_bytes())
    copy = path.with_name("uwsgi_spoolfile_on_captured")
    temporary.rename(copy)
    look(server)
    wait_until(lambda: not copy.exists(), what="the copy was looked at")
    call(server, "ran")
    server.ledger.wait("ran")
    server.touch("go")
    server.wait_empty()
    assert len(server.ledger.rows("held")) == 1


@pytest.mark.parametrize("running", [True, False])
def test_given_a_captured_mule_message_when_it_comes_again_then_it_is_refused(uwsgi, running):
    server = uwsgi(APP, "mules = 2" if running else "mule = true")
    if not running:
        server.touch("go")
    call(server, "holder", executor="MULE")
    server.ledger.wait("held")
    if not running:
        wait_until(lambda: server.eval("control.busy()") == 0)
    server.eval("send_again()")
    wait_until(lambda: server.eval("refused()") == 1, what="it is refused")
    server.touch("go")
    assert len(server.ledger.rows("held")) == 1


def test_given_a_captured_network_packet_when_it_comes_again_then_it_is_refused(uwsgi):
    env = {"UWSGITASKS_SECRET": "a secret that both know"}
    server = uwsgi(APP, "socket = {dir}/uwsgi.sock", "workers = 2", env=env)
    address = f"uwsgi://{server.dir}/uwsgi.sock"
    code = "(ran.options(spooler=address)(), list(CAPTURED[0]))[1]"
    packet = bytes(server.eval(code, address=address))
    server.ledger.wait("ran")
    server.wait_empty()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(server.dir / "uwsgi.sock"))
        connection.sendall(packet)
        assert connection.recv(4, socket.MSG_WAITALL) == b"\xff\x00\x00\x01"
    wait_until(lambda: server.eval("refused()") == 1, what="it is refused")
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1


def test_given_a_replay_of_what_is_over_when_the_server_restarted_then_it_is_refused(uwsgi):
    server = uwsgi(APP)
    server.freeze()
    path = file_of(server, call(server, "ran"))
    captured = path.read_bytes()
    server.thaw()
    server.wait_empty()
    server.restart()
    (server.dir / "copy").write_bytes(captured)
    (server.dir / "copy").rename(path)
    look(server)
    wait_until(lambda: server.eval("refused()") == 1, what="it is refused")
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1


# removing a file


def test_given_files_when_removed_then_one_in_hand_stays_and_runs_on(uwsgi):
    server = uwsgi(APP)
    held = file_of(server, call(server, "holder"))
    server.ledger.wait("held")
    queued = file_of(server, call(server, "ran"))
    removed = [server.eval("remove_unlocked(p)", p=str(p)) for p in (held, queued, queued)]
    assert removed == [False, True, False]
    assert held.exists()
    server.touch("go")
    server.wait_empty()
    assert server.ledger.rows("ran") == []
    assert len(server.ledger.rows("held")) == 1
