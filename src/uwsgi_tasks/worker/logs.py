"""What uWSGI writes, passed on so that a person can read it."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import threading
from typing import IO

_NOISE = re.compile(
    rb"""
    \[uWSGI\]\ getting\ | \*\*\*\ Starting\ uWSGI | compiled\ with\ version | os:\ | nodename:\ |
    machine:\ | clock\ source:\ | pcre\ jit\ | detected\ | current\ working\ directory:\ |
    uWSGI\ running\ as\ root | \*\*\*\ WARNING:\ you\ are\ running\ uWSGI\ as\ root |
    your\ (processes\ number|memory\ page|mercy\ for) | lock\ engine:\ | thunder\ lock:\ |
    Python\ (version|main\ interpreter) | ---\ Python\ VM | python\ threads\ support |
    \*\*\*\ Operational\ MODE | added\ .*\ to\ pythonpath | \*\*\*\ no\ app\ loaded | spawned\ |
    \.\.\.gracefully\ killing | gracefully\ \(RE\)spawned | binary\ reloading\ uWSGI |
    closing\ all\ non-uwsgi | running\ / |
    SIG[A-Z/]+\ (received|got) | goodbye\ to\ uWSGI | killing\ the\ spooler | mapped\ \d |
    chdir\(\)\ to\ | set\ \w+\ to\ | \*\*\*\ Stats | setting\ procname |
    \*\*\*\ RELOADING | the\ spooler.*exited |
    \[uwsgi-signal\]\ signum\ |
    (spooler|mule\ \d+|worker\ \d+)\ \(pid:\ \d+\)\ (annihilated|buried)
    """,
    re.VERBOSE,
)
_KEPT = 30


class LogPump(threading.Thread):
    """Passes a pipe on to stderr, without what uWSGI tells of itself.

    Args:
        pipe: What to read.
        verbose: Pass everything on.
    """

    def __init__(self, pipe: IO[bytes], *, verbose: bool) -> None:
        super().__init__(name="uwsgi-tasks log", daemon=True)
        self._pipe = pipe
        self._verbose = verbose
        self._kept: collections.deque[bytes] = collections.deque(maxlen=_KEPT)

    def run(self) -> None:
        """Read until no process has the pipe open any more."""
        with self._pipe:
            for line in self._pipe:
                if not self._verbose and _NOISE.match(line):
                    self._kept.append(line)
                else:
                    _write(line)

    def tell_kept(self) -> None:
        """Write the last lines that weren't passed on: one of them may tell what went wrong."""
        while self._kept:
            _write(self._kept.popleft())


def _write(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, which is no reason to end
        while line:
            line = line[os.write(2, line) :]
