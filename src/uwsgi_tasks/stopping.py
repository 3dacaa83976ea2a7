"""Stopping a run from outside: a signal to its own process raises ``TaskCancelled`` in the task.

The handler stays in place as long as the process lives, for a signal that arrives a moment after
its task ended must not end the process. It raises only while a task runs that was asked to stop.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from .errors import TaskCancelled
from .loglines import LogLines
from .middleware import Call
from .model import Run, TaskExecutor

STOP_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2)) + (
    5 if hasattr(signal, "SIGRTMIN") else 0
)
"""Of the real-time ones: uWSGI, and most of what runs in it, uses none of them."""


class Stopper:
    """The middleware that lets a run be stopped, and keeps its last log lines.

    Life: made with the engine, and at rest; installed in each process that takes messages.
    """

    def __init__(self) -> None:
        self._asked: Callable[[str, int], bool] | None = None
        self._running: Run | None = None
        self.lines = LogLines(1)

    def install(self, asked: Callable[[str, int], bool], lines: LogLines) -> None:
        """Work in this process from now on.

        Args:
            asked: Tells whether a delivery is to stop, by id and delivery.
            lines: Keeps the last lines that a task logs.
        """
        self._asked, self.lines, self._running = asked, lines, None
        signal.signal(STOP_SIGNAL, self._on_signal)

    def __call__(self, run: Run, call_next: Call) -> Any:
        """Run the rest; what it logs is kept, and it may be stopped."""
        if self._asked is None or run.executor == TaskExecutor.RUNTIME:
            return call_next(run)
        self._running = run
        self.lines.keeps = True
        try:
            return call_next(run)
        finally:
            self._running = None
            self.lines.keeps = False

    def _on_signal(self, number: int, frame: Any) -> None:
        run, asked = self._running, self._asked
        if run is not None and asked is not None and asked(run.message.id, run.message.delivery):
            self._running = None  # once
            raise TaskCancelled(f"Task {run.message.task} {run.message.id} was cancelled")


def send(pid: int, number: int, is_meant: Callable[[], bool]) -> bool:
    """Send a signal to a process, if it is the one that is meant; False if it isn't or is gone.

    Args:
        pid: Of the process.
        number: The signal.
        is_meant: Looks whether the process of that pid is the one: its pid may be used anew.
    """
    try:
        if not hasattr(os, "pidfd_open"):
            if not is_meant():
                return False
            os.kill(pid, number)
            return True
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_meant():  # asked after the process is held
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
