"""A process that no uWSGI started, and that knows the home of a running server."""

from __future__ import annotations

import os
import time

import pytest

from tests.support.ledger import wait_until

APP = """
import os
from uwsgi_tasks import task, TaskExecutor

@task
def work(tag="x"):
    note("ran", tag=tag, place=place())

@task(queue="mail")
def mail(tag="x"):
    note("ran", tag=tag)

@task
def breaks():
    if not os.path.exists(os.path.join(os.environ["TEST_DIR"], "mended")):
        raise KeyError("no")
    note("ran", tag="mended")

@task
def waits():
    note("started")
    wait_for_file("go")
"""


@pytest.fixture
def beside(shell):
    """Run code beside a server whose home alone is known."""

    def run(server, code):
        drop = "import os; os.environ.pop('UWSGITASKS_SPOOLER', None)"
        return shell(
            server, f"{drop}\nimport app, uwsgi_tasks\n{code}", UWSGITASKS_HOME=home_of(server)
        )

    return run


def home_of(server):
    wait_until(lambda: (server.home / "server.json").exists(), what="the server has told")
    return str(server.home)


def test_given_an_idle_server_when_called_from_outside_then_it_runs_at_once(uwsgi, beside):
    server = uwsgi(APP)
    called = float(beside(server, "import time; app.work('a'); print(time.time())"))
    row = server.ledger.wait_one("ran", tag="a")
    assert row["place"] == "spooler"
    assert row["time"] - called < 1.0  # spooler-frequency is 30


def test_given_a_busy_server_when_called_from_outside_then_it_runs_right_after(uwsgi, beside):
    server = uwsgi(APP)
    beside(server, "app.waits()")
    server.ledger.wait_one("started")
    beside(server, "app.work('a')")
    server.touch("go")
    server.ledger.wait_one("ran", tag="a", timeout=2.0)


def test_given_a_delay_and_a_priority_when_called_from_outside_then_both_hold(uwsgi, beside):
    server = uwsgi(APP)
    due = float(
        beside(
            server,
            "import time; due = time.time() + 1; app.work.options(at=due)('later')\n"
            "app.work.options(priority=1)('prior'); print(due)",
        )
    )
    server.ledger.wait_one("ran", tag="prior", timeout=2.0)
    assert 0 <= server.ledger.wait_one("ran", tag="later", timeout=4.0)["time"] - due < 1.0


def test_given_a_queue_in_the_servers_ini_when_called_from_outside_then_its_spooler_runs_it(
    uwsgi, beside
):
    lines = ("spooler = {spool}", "spooler = {dir}/two")
    server = uwsgi(APP, *lines, 'set-ph = tasks-queues={"mail": "{dir}/two"}')
    beside(server, "app.mail('m')")
    assert server.ledger.wait_one("ran", tag="m")["pid"] in server.pids(
        "spooler", server.dir / "two"
    )


def test_given_a_dead_letter_when_retried_from_outside_then_the_server_runs_it(uwsgi, beside):
    server = uwsgi(APP)
    beside(server, "app.breaks()")
    letter = server.wait_letter()
    server.touch("mended")
    beside(server, f"uwsgi_tasks.dead.retry({letter['id']!r}); print(uwsgi_tasks.dead.list())")
    server.ledger.wait_one("ran", tag="mended")


def test_given_a_server_when_paused_and_resumed_from_outside_then_it_obeys(uwsgi, beside):
    server = uwsgi(APP)
    beside(server, "uwsgi_tasks.pause(); print(app.work('a').status())")
    assert server.eval("__import__('uwsgi_tasks').control.paused()") is True
    assert server.ledger.rows("ran") == []
    beside(server, "uwsgi_tasks.resume()")
    server.ledger.wait_one("ran", tag="a", timeout=2.0)


def test_given_a_stopped_server_when_called_from_outside_then_it_runs_after_the_start(
    uwsgi, beside
):
    server = uwsgi(APP)
    home_of(server)
    server.stop()
    told = beside(
        server,
        "import logging, io; out = io.StringIO(); logging.basicConfig(stream=out)\n"
        "app.work('a'); app.work('b'); print(out.getvalue())",
    )
    assert told.count("No server serves") == 1
    server.start()
    server.ledger.wait("ran", count=2)


def test_given_a_queued_call_when_cancelled_from_outside_then_it_doesnt_run(uwsgi, beside):
    server = uwsgi(APP)
    beside(server, "app.waits()")
    server.ledger.wait_one("started")
    assert beside(server, "print(app.work('a').cancel()); app.work('b')") == "True"
    server.touch("go")
    server.ledger.wait_one("ran", tag="b", timeout=2.0)
    assert server.ledger.rows("ran", tag="a") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_given_another_user_when_it_calls_then_the_error_names_the_cure(uwsgi, beside):
    server = uwsgi(APP)
    code = (
        "import os; os.setuid(65534)\n"
        "try: app.work('a')\n"
        "except uwsgi_tasks.HomeError as error: print(error)"
    )
    told = beside(server, code)
    assert "server's user" in told


def test_given_a_server_when_it_reloads_then_its_record_tells_of_the_new_start(uwsgi):
    server = uwsgi(APP)
    home_of(server)
    before = (server.home / "server.json").read_text()
    time.sleep(1.1)  # two starts in one second have one name
    server.reload()
    wait_until(lambda: (server.home / "server.json").read_text() != before)
