"""What the pages show of the worker, done."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.worker import Worker

from .pages import ROOT, blocks, files

PAGE = "docs/how-to/beside-another-server.md"


@pytest.fixture
def beside():
    """Start a worker on what a page builds."""
    started = []

    def start(page, target):
        worker = Worker(files=files(page))
        started.append(worker)
        return worker.start(target)

    yield start
    for worker in started:
        worker.close()


def ask(worker: Worker, site: str) -> None:
    """Ask an application for a page, in a plain Python that knows the home."""
    worker.shell(
        f"from {site} import application\n"
        "assert application({}, lambda *_: None) == [b'Thank you\\n']"
    )


@pytest.mark.parametrize(
    ("page", "target", "site"), [("README.md", "app", "app"), (PAGE, "shop_tasks", "shop_site")]
)
def test_given_a_pages_example_when_its_application_is_asked_then_the_worker_runs_the_task(
    beside, page, target, site
):
    worker = beside(page, target)
    ask(worker, site)
    worker.wait_log("^Welcome, ada@example.com$")


def test_given_the_unit_of_systemd_when_read_then_its_stop_is_longer_than_the_grace():
    unit = next(iter(blocks(ROOT / "docs/how-to/run-the-worker.md", "systemd"))).text
    told = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    grace = told["ExecStart"].partition("--grace ")[2].removesuffix("s")
    assert int(told["TimeoutStopSec"]) > int(grace)
    assert told["KillMode"] == "mixed"


@pytest.mark.parametrize("kind", ["systemd", "docker", "sh"])
def test_given_the_pages_when_the_worker_is_started_in_them_then_its_options_are_there(kind):
    told = [
        block.text.replace('", "', " ")
        for page in ("docs/how-to/run-the-worker.md", PAGE, "README.md")
        for block in blocks(ROOT / page, kind)
    ]
    words = {
        word.rstrip('"]')
        for text in told
        for line in text.splitlines()
        if "uwsgi-tasks" in line
        for word in line.split()
        if word.startswith("--")
    }
    done = subprocess.run(
        [sys.executable, "-m", "uwsgi_tasks", "worker", "--help"], capture_output=True, text=True
    )
    general = subprocess.run(
        [sys.executable, "-m", "uwsgi_tasks", "--help"], capture_output=True, text=True
    )
    known = done.stdout + general.stdout
    assert [word for word in words - {"--no-cache-dir"} if word not in known] == []
