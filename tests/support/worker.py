"""A real worker in a directory of its own, for the live tests.

worker = Worker(APP)                         # jobs.py, after ``HEADER``
worker.start(processes=2)
worker.shell("jobs.greet('a')")              # in a plain Python, beside it
worker.ledger.wait_one("greeted", who="a")
assert worker.stop() == 0
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import uwsgi_tasks

from . import processes
from .ledger import Ledger, wait_until

HEADER = "from app_base import note, place, wait_for_file\n"
START_S = 20.0
_SUPPORT = Path(__file__).parent
_RUN = """
import sys
from uwsgi_tasks.worker import WorkerOptions, run_worker
sys.exit(run_worker(WorkerOptions(**eval(sys.argv[1]))))
"""


class Worker:
    """One worker, with its directory.

    Args:
        source: Of the module ``jobs``, after ``HEADER``.
        files: More files: name → content.
        python: The interpreter.
        env: More variables of the environment.
    """

    def __init__(
        self,
        source: str = "",
        files: dict[str, str] | None = None,
        python: str = sys.executable,
        env: dict[str, str] | None = None,
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="uwsgi-worker-"))
        self.home = self.dir / ".uwsgi-tasks"
        self.log_path = self.dir / "worker.log"
        self.ledger = Ledger(self.dir / "ledger", self.explain)
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self._masters: list[int] = []
        self._env = env or {}
        self.write("jobs.py", HEADER + source)
        for name, content in (files or {}).items():
            self.write(name, content)

    def write(self, name: str, content: str) -> Path:
        """Write a file into the directory."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of the worker, and of what is beside it."""
        package = Path(uwsgi_tasks.__file__).parents[1]
        cleared = ("UWSGI", "COV", "PYTEST", "DJANGO")
        env = {k: v for k, v in os.environ.items() if not k.startswith(cleared)}
        env["PYTHONPATH"] = os.pathsep.join([str(package), str(_SUPPORT)])
        env.update(TEST_LEDGER=str(self.ledger.path), TEST_DIR=str(self.dir))
        return {**env, **self._env, **more}

    def start(self, *targets: str, wait: bool = True, **options: Any) -> Worker:
        """Start it, and wait until it is ready."""
        before = self.log().count(" ready: ")
        told = repr({"targets": targets or ("jobs",), **options})
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-c", _RUN, told],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env=self.env(),
                start_new_session=True,
            )
        if wait:
            self.wait_ready(before + 1)
        return self

    def wait_ready(self, count: int = 1) -> None:
        """Wait until it has said so often that it is ready."""

        def is_ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"it ended: {self.process.returncode}\n{self.explain()}")
            return self.log().count(" ready: ") >= count

        try:
            wait_until(is_ready, START_S, "the worker is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None
        self._masters.append(self.master)

    @property
    def parent(self) -> int:
        """The pid of the parent."""
        assert self.process is not None
        return self.process.pid

    @property
    def master(self) -> int:
        """The pid of uWSGI's master."""
        return self.children()[0]

    def children(self) -> list[int]:
        """Return the pids of the parent's children."""
        path = Path(f"/proc/{self.parent}/task/{self.parent}/children")
        return [int(pid) for pid in path.read_text().split()]

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until it has ended; return its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on\n{self.explain()}") from None

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Tell it to end, and wait; return its exit code."""
        self.send(how)
        return self.wait()

    def send(self, number: int) -> None:
        """Send the parent a signal."""
        os.kill(self.parent, number)

    def survivors(self) -> list[str]:
        """Return what lives of every uWSGI that it started."""
        pids = [pid for master in self._masters for pid in processes.of_session(master)]
        return [f"{pid} {processes.command(pid)}" for pid in pids]

    def close(self) -> None:
        """Kill what is left, and remove the directory."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                self._masters.append(self.master)
            self.process.kill()
            self.process.wait()
        for master in self._masters:
            for pid in processes.of_session(master):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    # beside it

    def shell(self, code: str, **env: str) -> str:
        """Run code in a plain Python that knows the home; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); import jobs\n{code}"],
            env=self.env(UWSGITASKS_HOME=str(self.home), **env),
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def touch(self, name: str) -> None:
        """Let go what waits for that file."""
        self.write(name, "")

    def log(self) -> str:
        """Return what it logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, pattern: str, timeout: float = 10.0) -> str:
        """Wait for something in the log; return the line."""
        expression = re.compile(f"^.*(?:{pattern}).*$", re.MULTILINE)
        try:
            found = wait_until(lambda: expression.search(self.log()), timeout, f"log: {pattern}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None
        return str(found.group(0))

    def explain(self) -> str:
        """Return the end of the log, for a failure."""
        return f"Log of {self.dir} (end):\n{self.log()[-6000:]}"
