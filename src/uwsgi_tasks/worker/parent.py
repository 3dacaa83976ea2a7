"""The parent of a worker: it starts uWSGI, lets tasks end before a stop, and ends with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import inflight, record
from ..errors import ConfigError, HomeError
from ..executors.spooler import FILE_PREFIX
from ..home import Home
from ..integrations import django
from . import WorkerOptions, ini
from .process import Process, find_uwsgi
from .signals import Signals
from .watch import Watcher, roots_of

if TYPE_CHECKING:
    from ..store import Store

_LOOK_S = 0.02
_WATCH_S = 0.5
_PREDECESSOR_S = 15.0
_STILL_STARTING_S = 30.0
_ENDS = (signal.SIGTERM, signal.SIGINT)
OK, DIED, USAGE = 0, 1, 2


class _Ended(Exception):
    """The worker is over.

    Attributes:
        code: The exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Parent:
    """The parent process of a worker.

    Life: started, ready; then it waits for a signal, for a change of a source file (``reload``), or
    for the queue to be empty (``once``), and lets the tasks end before it ends uWSGI.

    Args:
        options: What the worker is told.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.home: Home
        self.process: Process
        self.signals: Signals
        self._hands: inflight.Inflight
        self._store: Store | None = None

    def run(self) -> int:
        """Run until the worker ends; return the exit code."""
        try:
            layout = self._layout()
            with self._alone(layout), Signals() as self.signals:
                return self._live(layout)
        except _Ended as end:
            return end.code
        except HomeError as error:
            self._complain(str(error))
            return DIED

    # the start

    def _layout(self) -> ini.Layout:
        problem = ini.problem_of(self.options, has_django=django.is_configured())
        try:
            layout = ini.layout_of(self.options)
        except ConfigError as error:
            problem = problem or str(error)
        if problem:
            self._complain(problem)
            raise _Ended(USAGE)
        return layout

    @contextlib.contextmanager
    def _alone(self, layout: ini.Layout) -> Iterator[None]:
        """Make the home, and hold it as its only worker."""
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(layout.home), 0o755, exist_ok=True)
        self.home = Home(layout.home)
        self.home.make()
        self._hands = inflight.Inflight(self.home.file("inflight"), self.home.file("hands"))
        descriptor = os.open(layout.file("worker.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            self._wait_for_predecessor(layout, descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for_predecessor(self, layout: ini.Layout, descriptor: int) -> None:
        """Wait until a worker that was killed is gone with all its processes.

        Its uWSGI ends a moment after its parent, and whoever restarts that is fast.
        """
        deadline = time.monotonic() + _PREDECESSOR_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            if not record.is_up(layout.home):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_S)
        self._complain(f"another server runs on the home {layout.home}: one home, one server")
        raise _Ended(DIED)

    def _start(self, layout: ini.Layout) -> None:
        binary = find_uwsgi()
        if binary is None:
            self._complain(
                f"there is no uWSGI for {sys.executable}: pip install 'uwsgi-tasks[server]'"
            )
            raise _Ended(DIED)
        virtual_env = sys.prefix if binary and sys.prefix != sys.base_prefix else ""
        python = binary[0] if binary else sys.executable
        text = ini.text_of(self.options, layout, python, virtual_env)
        self.home.replace_file("worker.ini", text.encode())
        verbose = self.options.verbose
        self.process = Process(layout, self.home, binary, verbose=verbose)

    # the life

    def _live(self, layout: ini.Layout) -> int:
        watcher = None
        if self.options.reload:
            watcher = Watcher(roots_of(self.options.targets, os.getcwd()))
        try:
            self._start(layout)
            while not self._await_ready():
                self._await_change(watcher)
                self._start(layout)
            self._tell_ready(layout)
            if self.options.once:
                return self._once(layout)
            return self._serve(layout, watcher)
        finally:
            if hasattr(self, "process"):
                self.process.kill()

    def _await_ready(self) -> bool:
        """Wait until uWSGI takes tasks; False if it ended instead."""
        told_at = time.monotonic() + _STILL_STARTING_S
        while self.process.code() is None:
            if self.process.is_ready():
                return True
            number = self.signals.wait(_LOOK_S)
            if number in _ENDS:
                self._stop(number)
            if time.monotonic() > told_at:
                told_at = float("inf")
                self._say("still starting: the application is being imported")
        self.process.kill()
        self._complain(f"uWSGI didn't start: {_told_end(self.process.code())}")
        self.process.log.tell_kept()
        if not self.options.reload:
            raise _Ended(DIED)
        return False

    def _tell_ready(self, layout: ini.Layout) -> None:
        found = record.read(layout.home)
        if found is not None:
            mules = f", {_count(found.mules, 'mule')}" if found.mules else ""
            spoolers = _count(found.spoolers, "spooler")
            self._say(f"ready: {spoolers}{mules}, home {layout.home}")
        if self.home.is_paused():
            self._complain("taking tasks is paused: nothing runs until somebody resumes it")

    def _serve(self, layout: ini.Layout, watcher: Watcher | None) -> int:
        while True:
            number = self.signals.wait(_WATCH_S if watcher else 60.0)
            code = self.process.code()
            if code is not None:
                self._complain(f"uWSGI died: {_told_end(code)}")
                return DIED
            if number in _ENDS:
                self._stop(number)
            changed = watcher.changed() if watcher else None
            if number == signal.SIGHUP or changed:
                self._say(f"{changed or 'SIGHUP'}: reloading")
                self._reload(layout, watcher)

    def _await_change(self, watcher: Watcher | None) -> None:
        self._say("waiting for a change")
        while watcher is None or not watcher.changed():
            number = self.signals.wait(_WATCH_S)
            if number in _ENDS:
                raise _Ended(OK)
            if number == signal.SIGHUP:
                return

    def _once(self, layout: ini.Layout) -> int:
        if self.home.is_paused():
            self._stop_now(DIED)
        idle = 0
        while idle < 2:
            idle = idle + 1 if self._is_drained(layout) else 0
            number = self.signals.wait(_LOOK_S)
            if number in _ENDS:
                self._stop(number)
            if self.process.code() is not None:
                self._complain(f"uWSGI died: {_told_end(self.process.code())}")
                return DIED
        self._say("nothing is ready any more: ending")
        self._stop_now(OK)
        return OK

    def _is_drained(self, layout: ini.Layout) -> bool:
        """Tell whether nothing is ready and nothing runs."""
        for spool in layout.spools():
            with os.scandir(spool) as entries:
                if any(entry.name.startswith(FILE_PREFIX) for entry in entries):
                    return False
        return not self._hands.busy() and not self._is_something_due()

    def _is_something_due(self) -> bool:
        if self._store is None:
            path = self.home.file("store.db")
            if not os.path.exists(path):
                return False
            from ..store import Store

            self._store = Store(path)
        due = self._store.next_due()
        priorities = self.home.priorities_wait() and self._store.has_priorities()
        return priorities or (due is not None and due <= time.time())

    # the end

    def _reload(self, layout: ini.Layout, watcher: Watcher | None) -> None:
        self._drain(stopping=False)
        self.process.reload()
        while not self._await_ready():
            self._await_change(watcher)
            self._start(layout)
        self._tell_ready(layout)

    def _drain(self, *, stopping: bool) -> None:
        """Take no further tasks, and let those that run end, for as long as they may.

        The next start takes tasks again; a pause that somebody made before stays.
        """
        if not self.home.is_paused():
            self.home.pause(True, until_reload=True)
        deadline = time.monotonic() + self.options.grace
        is_told = False
        while self._hands.busy() and self.process.code() is None:
            number = self.signals.wait(_LOOK_S)
            if number in _ENDS and stopping:
                self._complain(f"{signal.Signals(number).name} again: stopping at once")
                self._stop_now(128 + number)
            if number in _ENDS:
                self._stop(number)
            if time.monotonic() >= deadline:
                left = _count(len(self._hands.busy()), "task")
                self._complain(
                    f"{left} ran on for {self.options.grace:g} s: interrupted, to run"
                    f" again after the start"
                )
                return
            if not is_told:
                is_told = True
                self._say(f"waiting for {_count(len(self._hands.busy()), 'task')} to end")

    def _stop(self, number: int) -> None:
        """End the worker in order because of a signal."""
        self._say(f"{signal.Signals(number).name}: stopping")
        self._drain(stopping=True)
        self._stop_now(OK)

    def _stop_now(self, code: int) -> None:
        self.process.note_stop()
        self.process.stop()
        self._say("stopped")
        raise _Ended(code)

    # words

    def _say(self, text: str) -> None:
        if not self.options.quiet:
            self._complain(text)

    def _complain(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"uwsgi-tasks worker: {text}\n".encode())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _told_end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
