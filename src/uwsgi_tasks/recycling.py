"""What a task may leave behind in its process: put back after it, or the process is ended.

A process ends in order, with nothing in hand, when a task left what can't be put back (closed
descriptors) or a limit is reached (``max_tasks``, ``max_rss``). uWSGI
starts another one. It never ends between a task's return and uWSGI's removal of its file.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import logging
import os
import signal
import threading
import time
from typing import Any

from . import config
from .config import Settings
from .inflight import Inflight

logger = logging.getLogger(__name__)

_SIGNALS = tuple(
    int(number)
    for number in (
        signal.SIGALRM,
        signal.SIGCHLD,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGPIPE,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
)
_FILE_GOES_S = 5.0
_LOOK_S = 0.002


class Recycler:
    """The state of a consumer process as it was before its first task.

    Args:
        settings: The settings in force.
        inflight: Its descriptor tells whether a task closed those of others.
        at_once: Nothing follows a task here: the process may end right after it, as in a mule.
    """

    def __init__(self, settings: Settings, inflight: Inflight, *, at_once: bool) -> None:
        self._max_tasks, self._max_rss = settings.max_tasks, settings.max_rss
        self._inflight = inflight
        self._at_once = at_once
        self._directory = os.getcwd()
        self._left = settings.max_tasks or 0
        self.accept()
        self.reason = ""

    def accept(self) -> None:
        """Take the present state as that to put back: an import made it."""
        self._environment = config.environment()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = [_signal.getsignal(number) for number in _SIGNALS]
        self._actions = _Actions()
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def after_task(self, path: str = "") -> None:
        """Put back what a task changed, and see whether the process has to end.

        Args:
            path: The task's spool file, which uWSGI removes after this; empty where it stays.
        """
        os.umask(self._umask)
        if self._at_once:  # a spooler goes back itself
            with contextlib.suppress(OSError):
                os.chdir(self._directory)
        if config.is_environment_changed(self._environment):
            config.put_environment_back(self._environment)
        # _signal's own functions: those of signal make an enum of each value, 5 µs in all
        if _signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        _signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that is left would hit the next task
        if [_signal.getsignal(number) for number in _SIGNALS] != self._handlers or (
            self._actions.changed()
        ):
            self._put_handlers_back()
        if self._inflight.was_closed:
            self.end("a task closed descriptors that weren't its own")
            self._leave(path)
        if self._max_tasks:
            self._left -= 1
            if self._left <= 0:
                self.end(f"max_tasks={self._max_tasks} is reached", logging.INFO)
        if self._max_rss and (used := _rss()) > self._max_rss:
            self.end(f"it uses {used >> 20} MiB, more than max_rss", logging.INFO)
        if self.reason:
            if self._at_once:
                self.end_now()
            threading.Thread(target=self._end_when_idle, args=(path,), daemon=True).start()

    def end(self, reason: str, level: int = logging.WARNING) -> None:
        """Let the process end when it has nothing in hand."""
        self.reason = reason
        logger.log(level, "This process (pid %d) ends in order: %s", os.getpid(), reason)

    def _leave(self, path: str) -> None:
        """End at once: uWSGI would close numbers that are ours by now, and open files as them."""
        if path:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.end_now()

    def end_now(self) -> None:
        """End the process in order: it has nothing in hand."""
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # uWSGI's own handler ends the process
            time.sleep(1)

    def _end_when_idle(self, path: str) -> None:
        deadline = time.monotonic() + _FILE_GOES_S
        while path and os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    def _put_handlers_back(self) -> None:
        mask = _signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if handler is not None:
                _signal.signal(number, handler)
        self._actions.put_back()
        _signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Actions:
    """What the kernel does at a signal: uWSGI's own handlers, which Python doesn't see."""

    def __init__(self) -> None:
        import ctypes  # for processes that take messages only

        self._sigaction = ctypes.CDLL(None).sigaction
        self._now = ctypes.create_string_buffer(_ACTION_SIZE)
        self._byref = ctypes.byref(self._now)
        self._saved: list[tuple[Any, bytes, Any]] = []
        for number in _SIGNALS:
            buffer = ctypes.create_string_buffer(_ACTION_SIZE)
            wanted = ctypes.c_int(number)
            self._sigaction(wanted, None, ctypes.byref(buffer))
            self._saved.append((wanted, buffer.raw, buffer))
        self._watched = [saved for saved in self._saved if saved[0].value in _UWSGI_S]

    def changed(self) -> bool:
        """Tell whether one of the two that uWSGI depends on is another now."""
        for number, saved, _ in self._watched:
            self._sigaction(number, None, self._byref)
            if self._now.raw[:8] != saved[:8]:  # the handler; glibc leaves garbage after the mask
                return True
        return False

    def put_back(self) -> None:
        """Let the kernel do again what it did."""
        for number, _, buffer in self._saved:
            self._sigaction(number, buffer, None)


_ACTION_SIZE = 256  # more than struct sigaction anywhere; what is in it isn't looked at
_UWSGI_S = (int(signal.SIGUSR1), int(signal.SIGTERM))


def _rss() -> int:
    """Return the bytes of memory that this process uses; 0 where that can't be told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
