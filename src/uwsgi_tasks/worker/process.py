"""The uWSGI of a worker, as its parent sees it: found, started, told to end, and ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .. import config, inflight, record
from ..home import Home
from . import launch
from .ini import Layout
from .logs import LogPump

_STOP_S = 10.0
_LOOK_S = 0.02


def find_uwsgi() -> tuple[str, ...] | None:
    """Return what follows the script ``launch`` for a uWSGI to be found, or ``None``.

    Nothing for the module ``pyuwsgi`` of this interpreter, else the program beside it.
    """
    if importlib.util.find_spec("pyuwsgi") is not None:
        return ()
    binary = Path(sys.executable).with_name("uwsgi")
    return (str(binary),) if os.access(binary, os.X_OK) else None


class Process:
    """One uWSGI, in a session of its own.

    Args:
        layout: Where things lie.
        home: The home.
        binary: What ``find_uwsgi`` gave.
        verbose: Pass all its lines on.
    """

    def __init__(self, layout: Layout, home: Home, binary: tuple[str, ...], *, verbose: bool):
        self._layout = layout
        self._home = home
        written = self._record()
        self._before = written.incarnation if written else ""
        script = os.path.abspath(launch.__file__)
        self._child = subprocess.Popen(
            [sys.executable, script, str(os.getpid()), layout.file("worker.ini"), *binary],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(layout.home),
            start_new_session=True,
        )
        assert self._child.stderr is not None
        self.log = LogPump(self._child.stderr, verbose=verbose)
        self.log.start()

    def _record(self) -> record.Record | None:
        return record.read(self._layout.home)

    def code(self) -> int | None:
        """Return how its master ended, ``None`` while it lives."""
        return self._child.poll()

    def is_ready(self) -> bool:
        """Tell whether this start of it takes tasks."""
        written = self._record()
        return (
            written is not None
            and written.incarnation != self._before
            and written.master == self._child.pid
            and record.is_up(self._layout.home)
            and self._is_in_its_loop()
        )

    def _is_in_its_loop(self) -> bool:
        """Tell whether the master reads its FIFO: until then it would miss SIGHUP and SIGTERM."""
        try:
            os.close(os.open(self._layout.file("master.fifo"), os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def reload(self) -> None:
        """Let it start again, in the same process; ``is_ready`` tells of the new start."""
        written = self._record()
        self._before = written.incarnation if written else ""
        if written:  # two starts in one second would look like one
            time.sleep(max(0.0, written.started_on + 1.1 - time.time()))
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGHUP)

    def note_stop(self) -> None:
        """Note that what runs is interrupted by a stop; without workers uWSGI doesn't tell."""
        written = self._record()
        if written is not None:
            hands = inflight.Inflight(self._home.file("inflight"), self._home.file("hands"))
            hands.note_stop(inflight.Instance(written.master, written.started_on))

    def stop(self) -> int:
        """End it, and all that it started; return how its master ended."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGINT)  # see ``launch.die_with``
        deadline = time.monotonic() + _STOP_S
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return self.kill()

    def kill(self) -> int:
        """Kill what is left of it at once; return how its master ended."""
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            try:
                os.killpg(self._child.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                break
            self._child.poll()
            time.sleep(_LOOK_S)
        code = self._child.wait()
        self.log.join(_STOP_S)
        return code


def _environment(home: str) -> dict[bytes, bytes]:
    """Return this process's environment, for uWSGI: ``UWSGI_*`` would be options of it."""
    found = {os.fsencode(k): os.fsencode(v) for k, v in config.environment().items()}
    found = {name: value for name, value in found.items() if not name.startswith(b"UWSGI_")}
    found.pop(b"UWSGITASKS_SPOOLER", None)
    found.setdefault(b"PYTHONUNBUFFERED", b"1")  # what a task prints is seen at once
    return {**found, b"UWSGITASKS_HOME": os.fsencode(home)}
