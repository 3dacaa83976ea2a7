"""Gunicorn in front, the worker beside it: what was called is run, whichever of the two dies."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.support import processes
from tests.support.ledger import wait_until
from tests.support.server import _UnixConnection
from tests.support.worker import Worker

APP = """
import time
from uwsgi_tasks import task

@task
def work(number):
    time.sleep(0.01)
    note("ran", number=number)
"""
SITE = """
from urllib.parse import parse_qs
from jobs import work

def application(environ, start_response):
    number = int(environ["QUERY_STRING"])
    handle = work(number)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [handle.executor.name.encode()]
"""


class Gunicorn:
    """A gunicorn on a socket in the worker's directory."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.process: subprocess.Popen[bytes] | None = None
        self.socket = str(worker.dir / "web.sock")

    def start(self) -> None:
        with open(self.worker.dir / "web.log", "ab") as log:
            command = [sys.executable, "-m", "gunicorn", "-w", "2", "--no-control-socket"]
            self.process = subprocess.Popen(
                [*command, "-b", f"unix:{self.socket}", "site_app"],
                env=self.worker.env(UWSGITASKS_HOME=str(self.worker.home)),
                cwd=self.worker.dir,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.get(0), 20, "gunicorn answers")

    def get(self, number: int) -> str:
        """Ask for a page; return it, empty if there is none."""
        connection = _UnixConnection(self.socket, 10)
        try:
            connection.request("GET", f"/?{number}")
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else ""
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill all of it at once."""
        if self.process is None:
            return
        for pid in processes.of_session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


class Visitor(threading.Thread):
    """Asks for pages without end; ``answered`` are the calls that were acknowledged."""

    def __init__(self, site: Gunicorn) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.answered: list[int] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.is_over.wait(0.005):
            number += 1
            if self.site.get(number):
                self.answered.append(number)

    def wait_more(self, count: int = 30) -> None:
        before = len(self.answered)
        wait_until(lambda: len(self.answered) >= before + count, 20, "pages are answered")


@pytest.fixture
def pair():
    worker = Worker(APP, {"site_app.py": SITE})
    worker.start()  # it makes the home
    site = Gunicorn(worker)
    try:
        site.start()
        yield worker, site
    finally:
        site.kill()
        worker.close()


def run_all(worker, visitor):
    visitor.is_over.set()
    visitor.join()
    answered = set(visitor.answered)
    wait_until(lambda: answered <= {row["number"] for row in worker.ledger.rows("ran")}, 20)


def test_given_gunicorn_when_a_page_calls_a_task_then_the_worker_runs_it(pair):
    worker, site = pair
    assert site.get(7) == "SPOOLER"
    worker.ledger.wait_one("ran", number=7)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "master"])
def test_given_calls_without_end_when_the_worker_is_killed_then_each_answered_one_runs(
    pair, victim
):
    worker, site = pair
    visitor = Visitor(site)
    visitor.start()
    visitor.wait_more()
    os.kill(getattr(worker, victim), signal.SIGKILL)
    worker.wait()
    visitor.wait_more()  # nobody runs them now
    worker.start()
    visitor.wait_more()
    run_all(worker, visitor)


@pytest.mark.slow
def test_given_calls_without_end_when_gunicorn_is_killed_then_each_answered_one_runs(pair):
    worker, site = pair
    visitor = Visitor(site)
    visitor.start()
    visitor.wait_more()
    site.kill()
    site.start()
    visitor.wait_more()
    run_all(worker, visitor)


def test_given_a_worker_that_is_down_when_a_page_calls_then_one_warning_tells_and_it_waits(pair):
    worker, site = pair
    assert worker.stop() == 0
    for number in range(1, 8):
        assert site.get(number)
    log = (worker.dir / "web.log").read_text()
    assert 1 <= log.count("No server serves") <= 2  # two processes
    worker.start()
    worker.ledger.wait("ran", count=7)
