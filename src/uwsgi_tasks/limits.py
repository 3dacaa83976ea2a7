"""Time limits of a run: ``soft_timeout`` raises in the task, ``timeout`` ends its process.

The hard one is uWSGI's user harakiri: the master looks at it once a second, so that it comes one
to two seconds late. On ``RUNTIME`` it would kill the caller's own process; there it acts softly.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from typing import Any

from .errors import SoftTimeout
from .middleware import Call
from .model import UNLIMITED, Run, TaskExecutor
from .server import Server

logger = logging.getLogger(__name__)


class Limiter:
    """The middleware that holds a run to its limits.

    Args:
        server: Its harakiri is used for the hard limit.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._armed: tuple[Run, float] | None = None
        self._warned: set[tuple[str, str]] = set()

    def __call__(self, run: Run, call_next: Call) -> Any:
        """Run the rest within the limits of the call, or of its task."""
        limits = run.message.limits
        if limits is None:
            assert run.spec is not None
            limits = run.spec.limits
        if limits is UNLIMITED:
            return call_next(run)
        soft, hard = limits.soft_timeout, limits.timeout
        if run.executor == TaskExecutor.RUNTIME and hard:
            self._warn(run, "its timeout acts as soft_timeout here: it would kill its caller")
            soft, hard = soft or hard, 0.0
        if soft and threading.current_thread() is not threading.main_thread():
            self._warn(run, "soft_timeout needs the main thread, it isn't applied here")
            soft = 0.0
        if not hard:
            return self._softly(run, call_next, soft)
        self._server.set_harakiri(math.ceil(hard))
        try:
            return self._softly(run, call_next, soft)
        finally:
            self._server.set_harakiri(0)

    def _softly(self, run: Run, call_next: Call, seconds: float) -> Any:
        """Run the rest; of nested limits the one that ends first holds."""
        ends, outer = time.monotonic() + seconds, self._armed
        if not seconds or (outer is not None and outer[1] <= ends):
            return call_next(run)
        mine = (run, ends)

        def on_alarm(number: int, frame: Any) -> None:
            if self._armed is mine:
                raise SoftTimeout(f"The task ran for {seconds:g} s, its soft_timeout")

        before = signal.signal(signal.SIGALRM, on_alarm)
        left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
        self._armed = mine
        try:
            return call_next(run)
        finally:
            self._armed = outer
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN if before is None else before)
            if outer is not None:
                left = max(outer[1] - time.monotonic(), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left)

    def _warn(self, run: Run, matter: str) -> None:
        if (run.message.task, matter) not in self._warned:
            self._warned.add((run.message.task, matter))
            logger.warning("Task %s: %s", run.message.task, matter)
