"""The worker: an embedded uWSGI without a web server, and the parent that owns its life."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.ledger import wait_until
from tests.support.worker import Worker

APP = """
import os, time
from uwsgi_tasks import task, timer, get_current_task

@task
def work(tag="x"):
    note("ran", tag=tag, place=place(), cwd=os.getcwd())

@task(queue="mail")
def mail(tag="x"):
    note("ran", tag=tag)

@task(executor="mule")
def muled(tag="x"):
    note("ran", tag=tag, place=place())

@task
def waits(tag="x"):
    run = get_current_task()
    note("started", tag=tag, redelivered=run.redelivered, crashes=run.crashes)
    wait_for_file("go")
    note("ended", tag=tag)

@task(retry_count=3)
def fails():
    note("failed", attempt=get_current_task().attempt)
    raise KeyError("no")

@task
def steps(n):
    note("step", n=n)
    if n:
        work("from a task")
        get_current_task()(n - 1)
"""
NEW = "\n@task\ndef new():\n    note('new')\n"


@pytest.fixture
def worker():
    """Make workers that end with the test: ``worker(source, **options of Worker)``."""
    made = []

    def make(source=APP, **options):
        made.append(Worker(source, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# it runs what is called


def test_given_a_worker_when_a_task_is_called_beside_it_then_a_spooler_runs_it(worker):
    it = worker().start()
    it.shell("jobs.work('a')")
    row = it.ledger.wait_one("ran", tag="a")
    assert (row["place"], row["cwd"]) == ("spooler", str(it.dir))


def test_given_a_worker_when_its_log_is_read_then_it_has_a_line_for_the_start_and_the_stop(worker):
    it = worker().start(processes=2, mules=1)
    assert it.stop() == 0
    lines = it.log().splitlines()
    assert lines[0] == f"uwsgi-tasks worker: ready: 2 spoolers, 1 mule, home {it.home}"
    assert lines[1:] == ["uwsgi-tasks worker: SIGTERM: stopping", "uwsgi-tasks worker: stopped"]


def test_given_a_quiet_worker_when_a_task_runs_then_nothing_is_logged(worker):
    it = worker()
    it.start(quiet=True, wait=False)
    wait_until(lambda: (it.home / "server.json").exists())
    it.shell("jobs.work('a')")
    it.ledger.wait_one("ran", tag="a")
    assert it.stop() == 0
    assert it.log() == ""


def test_given_a_mule_when_a_task_calls_one_for_it_then_the_mule_runs_it(worker):
    it = worker(APP + "\n@task\ndef calls():\n    muled('b')\n").start(mules=1)
    it.shell("jobs.calls()")
    assert it.ledger.wait_one("ran", tag="b")["place"] == "mule1"


def test_given_a_queue_of_its_own_when_the_others_are_busy_then_it_runs_at_once(worker):
    it = worker().start(queues=(("mail", 1),))
    it.shell("jobs.waits()")
    it.ledger.wait_one("started")
    it.shell("jobs.mail('m')")
    it.ledger.wait_one("ran", tag="m")
    it.touch("go")


def test_given_a_timer_when_the_worker_runs_then_it_fires(worker):
    it = worker(APP + "\n@timer(seconds=1)\ndef ticks():\n    note('tick')\n").start()
    it.ledger.wait("tick", count=2)


def test_given_two_processes_when_two_tasks_are_called_then_they_run_together(worker):
    it = worker().start(processes=2)
    it.shell("jobs.waits('a'); jobs.waits('b')")
    it.ledger.wait("started", count=2)
    it.touch("go")


def test_given_max_tasks_when_more_run_then_processes_change_and_none_is_lost(worker):
    it = worker().start(max_tasks=2)
    it.shell("[jobs.work(n) for n in range(5)]")
    rows = it.ledger.wait("ran", count=5, timeout=20)
    assert len({row["pid"] for row in rows}) > 1


def test_given_tasks_when_the_worker_runs_then_nothing_of_it_listens(worker):
    it = worker().start(mules=1)
    inodes = set()
    for name in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        inodes |= {row[9] for row in rows if row[3] == "0A"}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes |= {row[6] for row in rows if int(row[3], 16) & 0x10000}
    for pid in [it.parent, *processes.of_session(it.master)]:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found = os.readlink(f"/proc/{pid}/fd/{name}")
            assert found.removeprefix("socket:[").removesuffix("]") not in inodes


# what it imports


def test_given_the_path_of_a_file_when_started_then_its_tasks_run(worker):
    it = worker(files={"sub/more.py": "from jobs import *\n\n@task\ndef there():\n    work('f')\n"})
    it.start("sub/more.py")
    it.shell("import sys; sys.path.insert(0, 'sub'); import more; more.there()")
    it.ledger.wait_one("ran", tag="f")


def test_given_a_factory_when_started_then_it_is_called(worker):
    it = worker(APP + "\ndef create_app():\n    note('made', place=place())\n")
    it.start("jobs:create_app")
    assert it.ledger.wait_one("made")["place"] == "master"


def test_given_a_django_project_when_started_then_the_tasks_of_its_applications_are_known(worker):
    files = {
        "site_settings.py": "SECRET_KEY = 'x' * 50\nINSTALLED_APPS = ['shop']\nUSE_TZ = True\n",
        "shop/__init__.py": "",
        "shop/tasks.py": (
            "from django.apps import apps\nfrom app_base import note\n"
            "from uwsgi_tasks import timer\n\n@timer(seconds=1)\ndef tick():\n"
            "    note('tick', ready=apps.ready)\n"
        ),
    }
    it = worker(files=files, env={"DJANGO_SETTINGS_MODULE": "site_settings"})
    it.start(targets=())
    assert it.ledger.wait_one("tick", timeout=5)["ready"] is True


def test_given_a_module_that_raises_when_started_then_it_ends_with_1_and_the_traceback(worker):
    it = worker("raise ZeroDivisionError('in the module')\n").start(wait=False)
    assert it.wait() == 1
    assert "ZeroDivisionError: in the module" in it.log()
    assert "uWSGI didn't start: exit code 1" in it.log()


def test_given_an_application_with_another_home_when_started_then_it_says_which(worker):
    source = "from uwsgi_tasks import configure\nconfigure(home='/tmp/elsewhere/of/it')\n"
    it = worker(source).start(wait=False)
    assert it.wait() == 1
    assert "start it with that one" in it.log()


# once


def test_given_ready_tasks_when_run_once_then_all_that_follows_runs_and_it_ends(worker):
    it = worker().start(once=True)
    assert it.wait() == 0
    it.shell("jobs.steps(2); jobs.fails(); jobs.work.options(at=1e12)('later')")
    it.start(once=True, wait=False)
    assert it.wait() == 0
    assert [row["n"] for row in it.ledger.rows("step")] == [2, 1, 0]
    assert [row["attempt"] for row in it.ledger.rows("failed")] == [1, 2, 3]
    assert {row["tag"] for row in it.ledger.rows("ran")} == {"from a task"}


# its end


def test_given_a_running_task_when_told_to_end_then_it_ends_first(worker):
    it = worker().start()
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.send(signal.SIGTERM)
    it.wait_log("waiting for 1 task to end")
    it.touch("go")
    assert it.wait() == 0
    assert it.ledger.rows("ended", tag="a")
    assert it.survivors() == []


def test_given_a_task_longer_than_the_grace_when_stopped_then_it_is_interrupted_and_no_crash(
    worker,
):
    it = worker().start(grace=0.2)
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    assert it.stop() == 0
    assert it.survivors() == []
    it.touch("go")
    it.start()
    row = it.ledger.wait("started", count=2)[1]
    assert (row["redelivered"], row["crashes"]) == (True, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_given_a_stop_that_waits_when_told_again_then_it_ends_at_once(worker, number, code):
    it = worker().start(grace=60)
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.send(number)
    it.wait_log("waiting for 1 task")
    assert it.stop(number) == code
    assert it.survivors() == []


def test_given_a_killed_parent_when_a_task_runs_then_nothing_lives_on(worker):
    it = worker().start(processes=2, mules=1)
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.send(signal.SIGKILL)
    it.wait()
    wait_until(lambda: not it.survivors(), what="nothing lives")


def test_given_a_killed_parent_when_started_again_at_once_then_the_task_runs_again(worker):
    it = worker().start()
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.touch("go")
    it.stop(signal.SIGKILL)
    it.start()
    it.ledger.wait("ended", tag="a")


@pytest.mark.parametrize("milliseconds", [100, 200, 300, 450, 700])
def test_given_a_parent_that_is_killed_while_it_starts_then_nothing_lives_on(worker, milliseconds):
    it = worker()
    it.start(processes=2, wait=False)
    master = wait_until(lambda: it.children()[:1])[0]
    time.sleep(milliseconds / 1000)  # a moment of the start, whichever it is
    it.send(signal.SIGKILL)
    it.wait()
    wait_until(lambda: not processes.of_session(master), what="nothing lives")


def test_given_a_start_when_told_to_end_then_it_ends_at_once(worker):
    it = worker("import time\ntime.sleep(2)\n")
    it.start(wait=False)
    wait_until(lambda: it.children())
    began = time.monotonic()
    assert it.stop() == 0
    assert time.monotonic() - began < 1.9


def test_given_a_killed_parent_when_it_had_reloaded_then_nothing_lives_on(worker):
    it = worker().start(processes=2)
    it.send(signal.SIGHUP)
    it.wait_ready(2)
    it.send(signal.SIGKILL)
    it.wait()
    wait_until(lambda: not it.survivors(), what="nothing lives")


def test_given_a_killed_master_when_a_task_runs_then_it_ends_with_1_and_nothing_lives_on(worker):
    it = worker().start(processes=2, mules=1)
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    os.kill(it.master, signal.SIGKILL)
    assert it.wait() == 1
    assert "uWSGI died: killed by SIGKILL" in it.log()
    assert it.survivors() == []


def test_given_a_worker_when_a_second_one_starts_on_its_home_then_that_one_refuses(worker):
    it = worker().start()
    other = worker()
    other.start(home=str(it.home), wait=False)
    assert other.wait(30) == 1
    assert "another server" in other.log()
    it.shell("jobs.work('a')")
    it.ledger.wait_one("ran", tag="a")


# reloads


def test_given_sighup_when_the_code_has_changed_then_the_new_code_runs(worker):
    it = worker().start()
    master = it.master
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.write("jobs.py", (it.dir / "jobs.py").read_text() + NEW)
    it.send(signal.SIGHUP)
    it.wait_log("waiting for 1 task to end")
    it.shell("jobs.new()")
    it.touch("go")
    it.wait_ready(2)
    it.ledger.wait_one("new")
    assert it.ledger.rows("ended", tag="a")
    assert it.master == master
    assert it.stop() == 0
    assert it.survivors() == []


def test_given_a_reload_that_waits_when_told_to_end_then_the_task_ends_first(worker):
    it = worker().start()
    it.shell("jobs.waits('a')")
    it.ledger.wait_one("started", tag="a")
    it.send(signal.SIGHUP)
    it.wait_log("waiting for 1 task to end")
    it.send(signal.SIGTERM)
    it.wait_log("SIGTERM: stopping")
    it.touch("go")
    assert it.wait() == 0
    assert it.ledger.rows("ended", tag="a")


def test_given_reload_when_a_file_changes_then_the_new_code_runs(worker):
    it = worker().start(reload=True)
    it.write("jobs.py", (it.dir / "jobs.py").read_text() + NEW)
    it.wait_ready(2)
    it.shell("jobs.new()")
    it.ledger.wait_one("new")


def test_given_reload_when_a_file_is_broken_then_it_waits_for_the_next_change(worker):
    it = worker().start(reload=True)
    good = (it.dir / "jobs.py").read_text()
    it.write("jobs.py", "this is no Python\n")
    it.wait_log("waiting for a change")
    it.write("jobs.py", good + NEW)
    it.wait_ready(2)
    it.shell("jobs.new()")
    it.ledger.wait_one("new")
    assert it.stop() == 0
