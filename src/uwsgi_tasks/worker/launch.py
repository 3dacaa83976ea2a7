"""Become uWSGI, and die with the parent: run as a script, in a process of its own.

    python launch.py PID-OF-THE-PARENT INI [UWSGI]

Nothing of the library may be imported here: it would find no uWSGI, and remember that. A reload of
uWSGI runs this script again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let the kernel end this process when its parent dies, however that comes about.

    SIGINT lets uWSGI's master end what it started. It is the one signal that does so from the
    first moment on: ``uwsgi_setup`` ignores SIGTERM and SIGHUP until the master's loop begins, and
    Python's own handler of SIGINT is taken away here.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:  # Linux
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # it has died already
        os._exit(1)


def main() -> None:
    """Run uWSGI: the module of this interpreter, or the program that is named."""
    parent, ini, *binary = sys.argv[1:]
    del sys.path[0]  # the directory of this script
    die_with(int(parent))
    if binary:
        os.execv(binary[0], [binary[0], "--ini", ini])
    import pyuwsgi

    sys.argv[:] = ["uwsgi", "--ini", ini]
    pyuwsgi.run()


if __name__ == "__main__":
    main()
