"""Processes of a test's own: forked, seen to be ready, and ended or killed by the test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Child:
    """A process that has done something and lives until the block ends, or until it is killed.

    Args:
        work: What it does first; the child is ready when this has returned.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        hold, self._release = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._release)
                work()
                os.write(writer, b"x")
                os.read(hold, 1)
            finally:
                os._exit(0)
        os.close(writer)
        os.close(hold)
        ready = os.read(reader, 1)
        os.close(reader)
        if not ready:
            self._end()
            raise AssertionError("the child failed before it was ready")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self._end()

    def _end(self) -> None:
        os.close(self._release)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def kill(self, *, fetch: bool = True) -> None:
        """Kill it by SIGKILL; wait until it is dead, and fetch its end unless told not to."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        if fetch:
            self._end()


def in_child(work: Callable[[], Any]) -> str:
    """Run something in a forked process; return what it returned, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        found = file.read()
    os.waitpid(pid, 0)
    return found


def killed_after(work: Callable[[], Any]) -> int:
    """Let a process do something and be killed; return its pid."""
    child = Child(work)
    pid = child.pid
    child.kill()
    return pid
