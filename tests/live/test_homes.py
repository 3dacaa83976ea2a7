"""Where things are: homes and spools elsewhere, relative, behind links; uWSGI's own options."""

from __future__ import annotations

import pytest

from tests.support.ledger import wait_until

APP = """
import os, time
from uwsgi_tasks import task, TaskExecutor, get_current_task

@task(executor=TaskExecutor.SPOOLER, retry_count=2)
def fails():
    note("ran", attempt=get_current_task().attempt, cwd=os.getcwd())
    raise KeyError("no")

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag, cwd=os.getcwd())

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def stays(tag="x"):
    note("ran", tag=tag, cwd=os.getcwd())

@task(executor=TaskExecutor.MULE, retry_count=2)
def fails_in_mule():
    raise KeyError("no")
"""


def delayed(server, tag, seconds=0.5):
    server.eval(f"ran.options(at=time.time() + {seconds})(tag)", tag=tag)
    return server.ledger.wait_one("ran", tag=tag, timeout=3.0)


@pytest.mark.parametrize("how", ["ini", "environment"])
def test_given_a_home_elsewhere_when_tasks_die_then_their_letters_lie_there(uwsgi, how):
    server = uwsgi(APP, started=False)
    home = server.dir / "elsewhere"
    if how == "ini":
        ini = server.dir / "uwsgi.ini"
        ini.write_text(ini.read_text() + f"set-ph = tasks-home={home}\n")
    else:
        server._env["UWSGITASKS_HOME"] = str(home)
    server.start()
    handle = server.call("fails")
    wait_until(lambda: (home / "dead" / f"{handle['id']}.json").exists())
    assert not server.home.exists()


@pytest.mark.parametrize("path", ["spool", "./spool/"])
def test_given_a_relative_spooler_when_called_then_it_runs_and_delays_work(uwsgi, path):
    server = uwsgi(APP, f"spooler = {path}")
    server.call("ran", "now")
    server.ledger.wait("ran", tag="now")
    delayed(server, "later")


def test_given_a_spooler_behind_a_link_when_called_then_it_runs_and_delays_work(uwsgi):
    server = uwsgi(APP, "spooler = {dir}/link", started=False)
    (server.dir / "real").mkdir()
    (server.dir / "link").symlink_to("real")
    server.start()
    server.eval("ran.options(spooler=path)('now')", path=str(server.dir / "link"))
    server.ledger.wait("ran", tag="now")
    delayed(server, "later")


def test_given_spooler_chdir_when_tasks_fail_then_retries_and_letters_work(uwsgi):
    server = uwsgi(APP, "spooler-chdir = /usr")
    handle = server.call("fails")
    letter = server.wait_letter(handle["id"])
    assert [attempt["attempt"] for attempt in letter["attempts"]] == [1, 2]


def test_given_spooler_chdir_when_a_task_leaves_the_directory_alone_then_it_is_that(uwsgi):
    server = uwsgi(APP, "spooler-chdir = /usr")
    server.call("stays")
    assert server.ledger.wait_one("ran")["cwd"] == "/usr"


def test_given_two_spoolers_and_spooler_chdir_when_tasks_fail_then_each_retries_at_its_own(uwsgi):
    lines = ("spooler = {dir}/one", "spooler = {dir}/two", "spooler-chdir = /usr")
    server = uwsgi(APP, *lines)
    handle = server.eval("fails.options(spooler=path)()", path=str(server.dir / "two"))
    server.ledger.wait("ran", count=2)
    wait_until(lambda: server.status(handle) == "dead")
    second = server.pids("spooler", server.dir / "two")
    assert {row["pid"] for row in server.ledger.rows("ran")} == set(second)


def test_given_spooler_max_tasks_when_many_run_then_none_is_lost_and_delays_work(uwsgi):
    server = uwsgi(APP, "spooler-max-tasks = 3")
    server.eval("[ran(n) for n in range(7)] and None")
    server.ledger.wait("ran", count=7, timeout=10.0)
    delayed(server, "later", 1.5)


def test_given_no_spooler_when_a_task_dies_in_a_mule_then_the_log_has_its_story(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.call("fails_in_mule")
    server.wait_log("KeyError")


def test_given_two_instances_on_one_temporary_directory_when_stopped_then_no_home_is_left(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.call("fails_in_mule")
    server.wait_log("KeyError")
    server.restart()
    homes = list(server.dir.glob("uwsgi-tasks-*"))
    assert len(homes) <= 1


def test_given_a_delayed_call_at_import_in_the_master_when_due_then_it_runs(uwsgi):
    server = uwsgi(APP + "ran.options(at=time.time() + 1.0)('import')\n")
    server.ledger.wait_one("ran", tag="import", timeout=5.0)


def test_given_threads_in_the_worker_when_they_delay_tasks_then_all_run_once(uwsgi):
    source = APP + (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def from_threads():\n"
        "    due = time.time() + 0.5\n"
        "    with ThreadPoolExecutor(4) as pool:\n"
        "        list(pool.map(lambda n: ran.options(at=due)(n), range(200)))\n"
    )
    server = uwsgi(source, "threads = 4", "spooler-quiet = true")
    server.call("from_threads")
    rows = server.ledger.wait("ran", count=200)
    server.wait_empty()
    assert sorted(row["tag"] for row in rows) == list(range(200))


def test_given_a_child_forked_by_a_request_when_it_calls_a_task_then_it_runs(uwsgi):
    source = APP + (
        "def in_child():\n"
        "    ran.options(at=time.time() + 0.3)('parent')\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        ran('child')\n"
        "        ran.options(at=time.time() + 0.3)('child later')\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    server = uwsgi(source)
    server.call("in_child")
    for tag in ("parent", "child", "child later"):
        server.ledger.wait_one("ran", tag=tag)
