"""The command line beside a server that runs."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.support.cli import PROGRAM, environment, run_command
from tests.support.ledger import wait_until

APP = """
import logging
import time

from uwsgi_tasks import get_current_task, task, timer

@task
def add(a, b):
    note("added", value=a + b)
    return a + b

@task(retry_count=2, retry_timeout=0)
def fail(x):
    raise ValueError(f"bad {x}")

@task
def slow(number, pause=0.1):
    for done in range(number):
        get_current_task().progress(done + 1, number, f"row {done + 1}")
        logging.getLogger("app").warning("at row %d", done + 1)
        time.sleep(pause)

@timer(seconds=3600)
def hourly(signal_number):
    note("hourly")
"""


@pytest.fixture(scope="module")
def server(module_uwsgi):
    return module_uwsgi(APP, "master-fifo = {dir}/fifo", "spooler-processes = 2")


@pytest.fixture
def command(server):
    """Run a command on the home of the server."""
    return lambda *words, **more: run_command("--home", server.home, *words, **more)


def test_given_a_server_when_asked_for_its_status_then_it_is_up(command):
    status = command("status", "--json").json
    assert status["server_up"] is True
    assert (status["server"]["spoolers"], status["paused"]) == (2, False)
    assert "server           up since" in command("status").out


def test_given_a_call_that_waits_when_it_ends_ok_then_the_exit_code_is_0(command):
    done = command("call", "app.add", "--args", "[1, 2]", "--wait", "--json")
    assert (done.code, done.json["state"], done.json["task"]) == (0, "ok", "app.add")


def test_given_a_call_that_waits_when_it_dies_then_the_exit_code_is_1(command):
    done = command("call", "app.fail", "--args", "[7]", "--wait")
    assert done.code == 1
    assert "dead: it raised an exception, and no retry is left (ValueError: bad 7)" in done.out


def test_given_a_task_that_failed_twice_when_shown_then_its_timeline_has_both(command):
    ident = command("call", "app.fail", "--args", "[8]", "--wait").out.split()[0]
    shown = command("show", ident).out
    assert "attempt 1 ended" in shown
    assert "attempt 2 ended" in shown
    assert "ValueError: bad 8" in shown
    assert run_command("--help").code == 0


def test_given_a_dead_letter_when_retried_then_the_server_runs_it(command):
    ident = command("call", "app.fail", "--args", "[9]", "--wait").out.split()[0]
    assert command("retry", ident).code == 0
    wait_until(lambda: command("show", ident, "--json").json["attempt"] == 4)
    assert command("dead", "drop", ident).code == 0


def test_given_a_task_with_progress_when_watched_then_its_lines_tell_it_to_the_end(command):
    ident = command("call", "app.slow", "--args", "[5, 0.2]").out.strip()
    done = command("watch", ident, "--interval", "0.1")
    assert done.code == 0
    assert "running  [" in done.out
    assert done.out.splitlines()[-1].startswith("ok  [####")
    shown = command("show", ident).out
    assert "progress  5 of 5" in shown
    assert "at row 5" in shown


def test_given_a_task_that_runs_when_listed_and_cancelled_then_it_ends_cancelled(command):
    ident = command("call", "app.slow", "--args", "[1000]").out.strip()
    wait_until(lambda: command("list", "--state", "running").rows)
    assert ident in command("top", "--count", "1").out
    assert command("cancel", ident).code == 0
    assert command("watch", ident, "--json").json["state"] == "cancelled"


def test_given_a_task_that_runs_when_killed_then_it_ends_cancelled(command):
    ident = command("call", "app.slow", "--args", "[1000]").out.strip()
    wait_until(lambda: command("list", "--state", "running").rows)
    assert command("cancel", ident, "--kill").code == 0
    assert command("watch", ident, "--json").json["state"] == "cancelled"


def test_given_a_pause_when_called_then_it_waits_until_resumed(command):
    command("pause")
    ident = command("call", "app.add", "--args", "[3, 4]").out.strip()
    assert command("show", ident, "--json").json["state"] == "queued"
    assert command("watch", ident, "--timeout", "0.3").code == 1
    command("resume")
    assert command("watch", ident).code == 0


def test_given_a_task_that_runs_too_long_when_drained_then_it_says_so(command):
    ident = command("call", "app.slow", "--args", "[1000]").out.strip()
    wait_until(lambda: command("list", "--state", "running").rows)
    done = command("drain", "--timeout", "0.2")
    assert done.code == 1
    assert "1 task still in hand" in done.err
    command("resume")
    command("cancel", ident, "--kill")


def test_given_an_idle_server_when_reloaded_then_it_takes_tasks_again(command, server):
    before = command("status", "--json").json["server"]["started_on"]
    assert command("drain").code == 0
    assert command("resume").code == 0
    assert command("reload").code == 0
    wait_until(lambda: command("status", "--json").json["server"]["started_on"] > before, 20)
    assert command("call", "app.add", "--args", "[5, 6]", "--wait").code == 0


def test_given_a_server_when_its_home_is_checked_then_its_ini_file_is_found(command, server):
    done = command("check", "--json")
    found = {one["id"] for one in done.json["findings"]}
    assert "UT-H003" not in found  # it has a master-fifo
    assert "UT-W014" in found or os.stat(server.spool).st_mode & 0o7 == 0


def test_given_a_configuration_with_an_error_when_started_then_the_log_tells_its_id(uwsgi):
    server = uwsgi(APP, "spooler-frequency = 0")
    line = server.wait_log("UT-E004")
    assert "spooler-frequency = 0 counts as 0" in line


def test_given_a_timeout_above_harakiri_when_started_then_the_log_names_the_task_once(uwsgi):
    source = "from uwsgi_tasks import task\n@task(timeout=90)\ndef long(): ...\n"
    server = uwsgi(source, "spooler-harakiri = 60", "spooler-processes = 3")
    server.wait_log("app.long may run 90 s.*UT-W003")
    server.reload()
    wait_until(lambda: server.log().count("UT-W003") == 2, what="once for each start")


def test_given_a_worker_when_it_runs_once_then_what_waits_is_run(tmp_path):
    (tmp_path / "jobs.py").write_text(
        "from uwsgi_tasks import task\n@task\ndef note(x):\n    print('noted', x, flush=True)\n"
    )
    home = tmp_path / "home"
    assert run_command("--home", home, "worker", "jobs", "--once", cwd=tmp_path).code == 0
    assert run_command("--home", home, "call", "jobs.note", "--args", "[1]").code == 0
    done = run_command("--home", home, "worker", "jobs", "--once", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "noted 1" in done.out + done.err


def test_given_a_worker_that_ran_here_when_asked_from_there_then_its_home_is_found(tmp_path):
    (tmp_path / "jobs.py").write_text("from uwsgi_tasks import task\n@task\ndef note(x): ...\n")
    assert run_command("worker", "jobs", "--once", cwd=tmp_path).code == 0
    found = run_command("status", "--json", cwd=tmp_path)
    assert found.json["home"] == str(tmp_path / ".uwsgi-tasks")
    done = run_command("check", "--json", cwd=tmp_path)
    assert [one for one in done.json["findings"] if one["severity"] == "error"] == []


def test_given_a_reader_that_has_seen_enough_when_listed_then_it_ends_quietly(command, server):
    for number in range(3):
        command("call", "app.add", "--args", f"[{number}, 0]")
    done = subprocess.run(
        f"{PROGRAM} --home {server.home} list --json | head -1",
        shell=True,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_given_ctrl_c_when_watching_then_it_ends_with_130(command, server):
    ident = command("call", "app.add", "--args", "[1, 1]", "--delay", "1h").out.strip()
    process = subprocess.Popen(
        [PROGRAM, "--home", str(server.home), "watch", ident],
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.stdout.close()
    assert command("cancel", ident).code == 0


def test_given_a_schedule_when_paused_run_and_resumed_then_the_list_tells(command):
    name = "app.hourly"
    rows = {row["name"]: row for row in command("schedules", "list").rows}
    assert rows[name]["state"] == "active"
    assert command("schedules", "pause", name).code == 0
    (found,) = (row for row in command("schedules", "list", "--json").json if row["name"] == name)
    assert found["state"] == "paused"
    assert command("schedules", "resume", name).code == 0
    assert command("schedules", "run", name).code == 0
    assert len(command("schedules", "next", name, "-n", "3").out.splitlines()) == 3
