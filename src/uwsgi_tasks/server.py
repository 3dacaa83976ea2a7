"""uWSGI as the library sees it: the only module that imports ``uwsgi``.

``Uwsgi`` wraps the module of a running server; ``Outside`` stands for its absence. Every number
and name is checked here before it reaches uWSGI, where a wrong one crashes the process
(``py_uwsgi_mule_msg`` in ``uwsgi_pymodule.c`` doesn't check mule numbers, ``uwsgi_route_signal``
in ``signal.c`` doesn't stop at a worker number that is too large).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

SIGNALS = 256
MULE_LIMIT = 65536
"""Bytes that a signal-only mule reads of a message; what is longer is cut (``core/mule.c``)."""

_WORKER_TARGET = r"worker(\d*)|workers|active-workers"
_MULE_TARGET = r"mule(\d*)|mules|farm_(.+)"


class Outside:
    """No uWSGI here: a test, a shell, ``manage.py``, or another web server."""

    inside = False
    has_master = False
    lazy_apps = False
    preloaded = False
    workers = 0
    incarnation = ""

    def option(self, name: str) -> str | None:
        """Return the value of an option of ``uwsgi.ini``, ``""`` for a bare flag."""
        return None

    def spools(self) -> Sequence[str]:
        """Return the spool directories that tasks can be written to, the default one first."""
        return ()

    def own_spools(self) -> Sequence[str]:
        """Return the spool directories that this instance's own spoolers work on."""
        return ()

    def has_mules(self) -> bool:
        """Tell whether mules are configured."""
        return False

    def kind(self) -> str:
        """Return what process this is: ``master worker spooler mule`` or ``outside``."""
        return "outside"

    def number(self) -> int:
        """Return the number of this worker or mule, 0 elsewhere."""
        return 0

    def wake(self, spool: str, tell: Callable[[int], bool] = lambda pid: False) -> bool:
        """Wake the spoolers of a directory, busy ones too; False if this instance has none.

        Args:
            spool: The directory.
            tell: Tells a spooler in another way, by its pid; False where it can't.
        """
        return False

    def set_harakiri(self, seconds: int) -> None:
        """Let the master kill this process after that many seconds; 0 takes it back."""

    def spooler_pids(self, spool: str) -> list[int]:
        """Return the pids of this instance's spoolers on that directory."""
        return []


class Uwsgi(Outside):
    """A running uWSGI, seen from one of its processes."""

    inside = True

    def __init__(self, module: Any) -> None:
        self.module = module
        self.imported_by = os.getpid()
        master = module.masterpid()
        self.has_master = master != 0
        self.lazy_apps = any(self.option(name) is not None for name in ("lazy-apps", "lazy"))
        self.preloaded = self.has_master and self.imported_by == master
        self.workers = module.numproc
        self.version = os.fsdecode(getattr(module, "version", b""))
        self.incarnation = f"{master}-{module.started_on}"
        self.master, self.started_on = master, int(module.started_on)
        self.is_a_reload = bool(getattr(module, "is_a_reload", False))
        self._spools: tuple[str, ...] | None = None
        self._places: dict[str, list[int]] = {}
        self._has_mules = any(self.option(name) is not None for name in ("mule", "mules"))

    def option(self, name: str) -> str | None:
        """See ``Outside``; of a repeated option uWSGI shows the last value only."""
        value = self.module.opt.get(name)
        if value is None:
            return None
        return "" if value is True else os.fsdecode(value)

    def options(self) -> list[tuple[str, str]]:
        """Return every option with its last value, ``"true"`` for a bare flag."""
        found = self.module.opt.items()
        return [(str(n), "true" if v is True else os.fsdecode(v)) for n, v in found]

    def spools(self) -> Sequence[str]:
        """See ``Outside``; own spoolers come before external ones."""
        if self._spools is None:
            listed = [os.fsdecode(path) for path in getattr(self.module, "spoolers", ())]
            own = self.own_spools()
            self._spools = tuple(dict.fromkeys([*own, *listed]))
        return self._spools

    def own_spools(self) -> Sequence[str]:
        """See ``Outside``.

        Pids tell once the spoolers run: an external one has pid 0 (``uwsgi_pymodule.c``). Before
        that all are 0; an instance with ``spooler-external`` alone has no ``spooler`` option.
        """
        listed = [os.fsdecode(path) for path in getattr(self.module, "spoolers", ())]
        running = [path for path, pid in zip(listed, self._pids(), strict=False) if pid > 0]
        if running:
            return tuple(dict.fromkeys(running))
        if self.option("spooler") is None and self.option("spooler-processes") is None:
            return () if self.option("spooler-external") is not None else tuple(listed)
        external = self.option("spooler-external")
        external = os.path.realpath(external) if external else ""
        return tuple(path for path in dict.fromkeys(listed) if path != external)

    def _pids(self) -> Sequence[int]:
        pids = getattr(self.module, "spooler_pids", None)
        return pids() if pids else ()

    def spooler_pids(self, spool: str) -> list[int]:
        """See ``Outside``; never 0, which would signal the whole process group."""
        places = self._places.get(spool)
        if places is None:
            name, paths = os.fsencode(spool), getattr(self.module, "spoolers", ())
            places = self._places[spool] = [n for n, path in enumerate(paths) if path == name]
        if not places:
            return []
        pids = self._pids()
        return [pids[place] for place in places if pids[place] > 0]

    def own_spool(self) -> str:
        """Return the directory that this spooler process works on."""
        for path, pid in zip(self.module.spoolers, self._pids(), strict=False):
            if pid == os.getpid():
                return os.fsdecode(path)
        return os.getcwd()  # uWSGI enters the spool before each task

    def wake(self, spool: str, tell: Callable[[int], bool] = lambda pid: False) -> bool:
        """See ``Outside``; SIGUSR1 reaches busy spoolers too, whom uWSGI itself leaves alone."""
        pids = self.spooler_pids(spool)
        for pid in pids:
            if tell(pid):
                continue
            try:  # noqa: SIM105  every call passes here
                os.kill(pid, signal.SIGUSR1)
            except (ProcessLookupError, PermissionError):
                pass
        return bool(pids)

    def scan_again(self) -> None:
        """Let this spooler look through its directory again, after the scan that it is in."""
        os.kill(os.getpid(), signal.SIGUSR1)

    def outlive_early_wake_ups(self) -> None:
        """Ignore SIGUSR1 in the master, so that spoolers do until they have set their handler.

        ``spooler_start`` in ``spooler.c`` sets it after the fork; before, a wake-up would kill.
        """
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # a second application's interpreter may not
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def has_mules(self) -> bool:
        """See ``Outside``."""
        return self._has_mules

    def set_harakiri(self, seconds: int) -> None:
        """See ``Outside``."""
        if self.has_master:  # without one uWSGI only logs that it can't
            self.module.set_user_harakiri(seconds)

    def spooler_harakiri(self) -> int:
        """Return the seconds after which uWSGI kills a spooler that is in its handler; 0: never."""
        text = self.option("spooler-harakiri") or ""
        return int(text) if text.isdigit() else 0

    def reload(self) -> None:
        """Reload the server, as SIGHUP to its master does."""
        self.module.reload()

    def send_to_mule(self, data: bytes, mule: int | str | None) -> bool:
        """Queue a message; the caller has checked the mule. False: the queue took nothing."""
        if mule is None:
            return bool(self.module.mule_msg(data))
        return bool(self.module.mule_msg(data, mule if isinstance(mule, int) else mule.encode()))

    def is_in_farm(self, name: str) -> bool:
        """Tell whether this mule is in that farm."""
        return bool(self.module.in_farm(name))

    def kind(self) -> str:
        """See ``Outside``."""
        if self.module.mule_id():
            return "mule"
        if getattr(self.module, "i_am_the_spooler", lambda: None)():
            return "spooler"
        if self.module.worker_id():
            return "worker"
        return "master"

    def number(self) -> int:
        """See ``Outside``."""
        return int(self.module.mule_id() or self.module.worker_id())

    def hook(self, name: str) -> Any:
        """Return what is installed as ``uwsgi.<name>``."""
        return getattr(self.module, name, None)

    def set_hook(self, name: str, function: Any) -> None:
        """Install a function as ``uwsgi.<name>``."""
        vars(self.module)[name] = function

    def guard_hooks(self, chain: Callable[[str, Any], None], names: frozenset[str]) -> None:
        """Let nobody overwrite these hooks: what is assigned to them goes to ``chain`` instead."""

        class Guarded(types.ModuleType):
            def __setattr__(self, name: str, value: Any) -> None:
                if name in names:
                    chain(name, value)
                else:
                    super().__setattr__(name, value)

        self.module.__class__ = Guarded

    def register_signal(self, target: str, handler: Callable[[int], None]) -> int:
        """Register a handler for a free signal, counted from the top, and return its number."""
        for number in range(SIGNALS - 1, -1, -1):
            if not self.module.signal_registered(number):
                self.module.register_signal(number, target, handler)
                return number
        raise ValueError("all of uWSGI's 256 signals are taken")

    def raise_signal(self, number: int) -> None:
        """Raise a signal that ``register_signal`` gave."""
        self.module.signal(number)

    def in_venv_without_binary_path(self) -> bool:
        """Tell whether a reload would lose the virtual environment (pyuwsgi does)."""
        if self.option("binary-path") is not None or sys.prefix == sys.base_prefix:
            return False
        with contextlib.suppress(OSError):
            return os.path.basename(os.readlink("/proc/self/exe")).startswith("python")
        return False


Server = Outside


def target_problem(target: str, server: Server) -> str | None:
    """Return why a schedule can't have that target, or ``None``."""
    if target in ("", "spooler"):
        return None
    worker = re.fullmatch(_WORKER_TARGET, target)
    if worker:
        number = int(worker.group(1) or 0)
        if server.inside and number > server.workers:
            return f"this server has {server.workers} workers"
        return None
    mule = re.fullmatch(_MULE_TARGET, target)
    if mule:
        return "a server has at most 256 mules" if int(mule.group(1) or 0) > SIGNALS else None
    return (
        "it takes '', 'worker', 'workers', 'workerN', 'active-workers', 'mule', 'mules', 'muleN',"
        " 'farm_NAME' or 'spooler'"
    )


def is_worker_target(target: str) -> bool:
    """Tell whether the target is reached by a signal to workers."""
    return re.fullmatch(_WORKER_TARGET, target) is not None


def detect() -> Server:
    """Return the server that this process belongs to."""
    try:
        import uwsgi
    except ImportError:
        return Outside()
    return Uwsgi(uwsgi) if hasattr(uwsgi, "masterpid") else Outside()


def process_age() -> float:
    """Return the seconds since this module was imported."""
    return time.monotonic() - _STARTED


_STARTED = time.monotonic()
