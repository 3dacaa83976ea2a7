"""What the checks look at, gathered: of a running server, or of an ini file and a home."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .. import config, engine, home
from ..errors import ConfigError
from ..model import TaskSpec
from ..server import Uwsgi
from .ini import Entry, Options, read
from .table import Facts

_HELP_S = 20.0


def of_server(here: Uwsgi, specs: Iterable[TaskSpec] = ()) -> Facts:
    """Return the facts of the server that this process belongs to.

    Args:
        here: The server.
        specs: The tasks whose time limits are looked at.
    """
    late = here.lazy_apps and not here.preloaded and here.kind() == "worker"
    return Facts(
        options=Options([Entry(name, value, "uwsgi.ini") for name, value in here.options()]),
        needs_binary_path=here.in_venv_without_binary_path(),
        spools=tuple(here.own_spools()),
        timeouts=timeouts_of(specs),
        has_master=here.has_master,
        is_loaded_late=late,
    )


def timeouts_of(specs: Iterable[TaskSpec]) -> tuple[tuple[str, float], ...]:
    """Return name and ``timeout`` of the tasks that have one."""
    return tuple((spec.name, spec.limits.timeout) for spec in specs if spec.limits.timeout)


def of_files(
    ini: str = "",
    home_path: str = "",
    spools: Iterable[str] = (),
    record: Mapping[str, Any] | None = None,
) -> Facts:
    """Return the facts that can be had without being in the server.

    Args:
        ini: Path of ``uwsgi.ini``; empty for none.
        home_path: Path of the home; empty for that of the ini file.
        spools: Spool directories; empty for those of the ini file.
        record: What the server wrote down of itself.

    Raises:
        OSError: The ini file can't be read.
    """
    options = read(ini, config.variable) if ini else Options([])
    origins, refusal = _settings(options)
    found = tuple(spools) or spools_of(options)
    return Facts(
        options=options,
        origins=origins,
        refusal=refusal,
        known=known_options() if ini else frozenset(),
        needs_binary_path=_is_pyuwsgi_in_venv() if ini else False,
        spools=found,
        home=home_path or _home_of(origins, found),
        uid=_uid(options, record or {}),
        record=record or {},
        timeouts=timeouts_of(engine.registry.specs.values()),
        has_master=None if ini else True,
        is_loaded_late=None if ini else False,
    )


def _settings(options: Options) -> tuple[config.Origins | None, str]:
    """Return the settings in force, or ``None`` and why they can't be meant."""
    try:
        return config.load({}, options.placeholder), ""
    except ConfigError as error:
        return None, str(error)


def spools_of(options: Options) -> tuple[str, ...]:
    """Return the spool directories that options name, as absolute paths."""
    folder = os.path.dirname(options.path)
    return tuple(dict.fromkeys(os.path.join(folder, path) for path in options.all("spooler", "Q")))


def _home_of(origins: config.Origins | None, spools: tuple[str, ...]) -> str:
    if origins is not None and origins.settings.home:
        return origins.settings.home
    return os.path.join(spools[0], home.NAME) if spools else ""


def _uid(options: Options, record: Mapping[str, Any]) -> int:
    text = options.last("uid")
    if text is None:
        return int(record.get("uid", -1))
    with contextlib.suppress(KeyError):
        return int(text) if text.isdigit() else pwd.getpwnam(text).pw_uid
    return -1


def _is_pyuwsgi_in_venv() -> bool:
    import importlib.util

    return sys.prefix != sys.base_prefix and importlib.util.find_spec("pyuwsgi") is not None


def known_options() -> frozenset[str]:
    """Return the names of the options of this machine's uWSGI; empty where there is none."""
    beside = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    binary = beside if os.access(beside, os.X_OK) else shutil.which("uwsgi")
    if binary is None:
        return frozenset()
    try:
        done = subprocess.run(  # noqa: S603  the uWSGI of this machine
            [binary, "--help"], capture_output=True, text=True, timeout=_HELP_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    lines = [line.split(maxsplit=1)[0] for line in done.stdout.splitlines() if line.strip()]
    return frozenset(name for line in lines for name in re.findall(r"(?:^|\|)--?([\w.-]+)", line))
