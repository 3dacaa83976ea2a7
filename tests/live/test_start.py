"""Starting, reloading, privileges, and hooks that were there before."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from tests.support.server import RemoteError

APP = """
import os
try:
    import uwsgi
except ImportError:  # a shell
    uwsgi = None
from uwsgi_tasks import task, TaskExecutor, set_uwsgi_callbacks

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag, uid=os.getuid(), place=place())
    return "result"

@task(executor=TaskExecutor.MULE)
def muled(tag="x"):
    note("ran", tag=tag, place=place())
"""
HOOK_FIRST = """
import uwsgi
def on_spool(env):
    note("foreign", keys=sorted(k.decode() for k in env if isinstance(k, bytes)))
    return uwsgi.SPOOL_OK
def on_mule(message):
    note("foreign mule", message=message.decode())
uwsgi.spooler = on_spool
uwsgi.mule_msg_hook = on_mule
"""


@pytest.mark.parametrize("task", ["ran", "muled"])
def test_given_binary_path_when_reloaded_then_tasks_run_as_before(uwsgi, task):
    server = uwsgi(APP, "mule = true")
    server.call(task, "before")  # a mule that has just forked misses the signal of a reload
    server.ledger.wait_one("ran", tag="before")
    server.reload()
    server.call(task, "after")
    server.ledger.wait_one("ran", tag="after")


def test_given_two_reloads_when_called_then_the_task_runs_once(uwsgi):
    server = uwsgi(APP)
    server.reload()
    server.reload()
    server.call("ran")
    server.ledger.wait("ran")
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1


def test_given_delayed_tasks_when_reloaded_then_they_run_in_time(uwsgi):
    server = uwsgi(APP)
    due = server.eval("(due := __import__('time').time() + 2.5, ran.options(at=due)())")[0]
    server.reload()
    assert 0 <= server.ledger.wait_one("ran")["time"] - due < 1.0


def test_given_no_binary_path_when_started_from_a_venv_then_the_log_warns_once(uwsgi):
    server = uwsgi(APP, binary_path=False)
    server.call("ran")
    server.ledger.wait("ran")
    lines = [line for line in server.log().splitlines() if "`binary-path" in line]
    assert len(lines) == 1


def test_given_binary_path_when_started_then_the_log_has_no_word_of_the_library(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("ran")
    server.ledger.wait("ran")
    assert [x for x in server.log().splitlines() if "binary-path" in x or "Task app" in x] == []


def test_given_a_spooler_hook_that_was_there_when_a_foreign_message_comes_then_it_gets_it(uwsgi):
    server = uwsgi(HOOK_FIRST + APP)
    server.eval("uwsgi.spool({b'hello': b'world'})")
    assert "hello" in server.ledger.wait_one("foreign")["keys"]
    server.wait_empty()
    assert server.letters() == {}


def test_given_a_spooler_hook_that_was_there_when_ours_comes_then_it_never_sees_it(uwsgi):
    server = uwsgi(HOOK_FIRST + APP)
    server.call("ran")
    server.ledger.wait("ran")
    server.wait_empty()
    assert server.ledger.rows("foreign") == []


def test_given_a_mule_hook_that_was_there_when_a_foreign_message_comes_then_it_gets_it(uwsgi):
    server = uwsgi(HOOK_FIRST + APP, "mule = true")
    server.eval("uwsgi.mule_msg(b'hello')")
    assert server.ledger.wait_one("foreign mule")["message"] == "hello"


def test_given_a_mule_hook_that_was_there_when_ours_comes_then_the_task_runs(uwsgi):
    server = uwsgi(HOOK_FIRST + APP, "mule = true")
    server.call("muled")
    assert server.ledger.wait_one("ran")["place"] == "mule1"
    assert server.ledger.rows("foreign mule") == []


def test_given_set_uwsgi_callbacks_called_twice_when_called_then_the_task_runs_once(uwsgi):
    server = uwsgi(APP + "set_uwsgi_callbacks()\nset_uwsgi_callbacks()\n")
    server.call("ran")
    server.ledger.wait("ran")
    server.wait_empty()
    assert len(server.ledger.rows("ran")) == 1


def test_given_hooks_overwritten_by_uwsgidecorators_when_set_again_then_tasks_run(uwsgi):
    server = uwsgi(APP + "from uwsgidecorators import *\nset_uwsgi_callbacks()\n", "mule = true")
    server.eval("(ran('spooled'), muled('muled'))")
    server.ledger.wait("ran", tag="spooled")
    server.ledger.wait("ran", tag="muled")


def test_given_hooks_that_uwsgidecorators_sets_after_ours_when_called_then_tasks_run(uwsgi):
    server = uwsgi(APP + "from uwsgidecorators import *\n", "mule = true")
    server.eval("(ran('spooled'), muled('muled'))")
    server.ledger.wait("ran", tag="spooled")
    server.ledger.wait("ran", tag="muled")


def test_given_a_task_in_a_wsgi_file_when_called_then_it_runs_once_at_the_first_try(uwsgi):
    server = uwsgi(APP, "wsgi-file = {dir}/app.py", module="")
    server.call("ran")
    assert server.ledger.wait_one("ran")["place"] == "spooler"


def test_given_a_module_not_yet_imported_in_the_spooler_when_called_then_it_runs_once(uwsgi):
    late = (
        "from app_base import note\nfrom uwsgi_tasks import task\n@task\ndef late(): note('late')\n"
    )
    server = uwsgi(APP, files={"late.py": late})
    server.eval("__import__('late').late()")
    server.ledger.wait("late")
    server.wait_empty()
    assert len(server.ledger.rows("late")) == 1


def why_not_dropped():
    """Return why a server can't serve as nobody here: no root, or a Python of root's own."""
    if os.getuid():
        return "only root can drop privileges"
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{sys.base_prefix} can't be read by nobody"
    return ""


needs_root = pytest.mark.skipif(bool(why_not_dropped()), reason=why_not_dropped())


@pytest.fixture
def dropped(uwsgi):
    """A server that starts as root and serves as nobody."""
    nobody = pwd.getpwnam("nobody")
    server = uwsgi(
        APP,
        f"uid = {nobody.pw_uid}",
        f"gid = {nobody.pw_gid}",
        "mule = true",
        started=False,
        owner=(nobody.pw_uid, nobody.pw_gid),
    )
    server.spool.mkdir()
    os.chown(server.spool, nobody.pw_uid, nobody.pw_gid)
    return server.start()


@needs_root
@pytest.mark.parametrize("task", ["ran", "muled"])
def test_given_a_start_as_root_when_privileges_were_dropped_then_tasks_run(dropped, task):
    dropped.call(task)
    dropped.ledger.wait_one("ran")


@needs_root
def test_given_a_start_as_root_when_privileges_were_dropped_then_the_home_is_the_servers(dropped):
    dropped.call("ran")
    assert dropped.ledger.wait_one("ran")["uid"] == pwd.getpwnam("nobody").pw_uid
    owners = {path.lstat().st_uid for path in (dropped.home, *dropped.home.rglob("*"))}
    assert owners == {pwd.getpwnam("nobody").pw_uid}


@needs_root
def test_given_a_start_as_root_when_a_delayed_task_is_due_then_it_runs(dropped):
    dropped.eval("ran.options(at=__import__('time').time() + 0.5)('delayed')")
    dropped.ledger.wait_one("ran", tag="delayed", timeout=3.0)


@needs_root
def test_given_a_server_of_nobody_when_root_calls_from_a_shell_then_it_runs(dropped, shell):
    shell(dropped, "import app; app.ran('by root')")
    dropped.ledger.wait_one("ran", tag="by root", timeout=3.0)


def test_given_the_spool_directory_is_gone_when_called_then_the_error_says_so(uwsgi):
    server = uwsgi(APP)
    server.freeze()
    server.spool.rename(server.dir / "moved")
    with pytest.raises(RemoteError) as caught:
        server.call("ran")
    assert "UwsgiTasksError" in caught.value.kinds


def test_given_one_stop_when_nothing_is_in_hand_then_no_process_is_left(uwsgi):
    server = uwsgi(APP, "mule = true", "spooler-processes = 2")
    server.call("ran")
    server.ledger.wait("ran")
    server.stop()
    assert server.all_pids() == []
