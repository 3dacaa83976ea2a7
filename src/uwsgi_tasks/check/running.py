"""Checks of a home in use: what the server left there, and whether it lives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from .. import files
from ..errors import ConfigError, UwsgiTasksError
from ..flags import Flags
from ..home import Home
from ..inflight import Inflight
from .table import Facts, Problem, check

_LEFT_ON_S = 3600.0
_STUCK_S = 600.0


def _in_home(facts: Facts, *names: str) -> str:
    """Return the path of something that is there in the home, else an empty text."""
    path = os.path.join(facts.home, *names) if facts.home else ""
    return path if path and os.access(path, os.R_OK | os.W_OK) else ""


def is_up(facts: Facts) -> bool:
    """Tell whether a process that takes messages of this home lives."""
    path = _in_home(facts, "inflight")
    if not path:
        return False
    seen = Inflight(path, os.path.join(facts.home, "hands"))
    return any(record.pid and seen.is_alive(record) for record in seen.records())


@check("UT-W015", "paused")
def paused(facts: Facts) -> Iterator[Problem]:
    """A pause outlives the server, but for one that was made for a reload."""
    if _in_home(facts, "flags") and Flags(facts.home).is_paused():
        yield Problem(
            "Taking tasks is paused: calls are kept, and nothing runs", "run `uwsgi-tasks resume`"
        )


@check("UT-W016", "dead letters")
def dead_letters(facts: Facts) -> Iterator[Problem]:
    """Tasks that didn't succeed and won't run again by themselves."""
    folder = _in_home(facts, "dead")
    names = os.listdir(folder) if folder else []
    number = len([name for name in names if name.endswith(".json") and name[0] != "."])
    if number:
        yield Problem(
            f"{number} dead {'letters lie' if number > 1 else 'letter lies'} there: tasks that"
            f" didn't succeed and won't run again by themselves",
            "see `uwsgi-tasks dead list`, then `dead retry` or `dead drop`",
        )


@check("UT-E013", "no timekeeper")
def no_timekeeper(facts: Facts) -> Iterator[Problem]:
    """Of the processes of a server one keeps time, and another takes over when it dies."""
    path = _in_home(facts, "timekeeper.lock")
    if not path or not is_up(facts):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        kept = files.is_locked(descriptor)
    finally:
        os.close(descriptor)
    if not kept:
        yield Problem(
            "The server runs and nobody keeps time: timers, delayed tasks and retries stand still",
            "look for errors of uwsgi_tasks in the server's log, then reload it",
        )


@check("UT-E014", "another key")
def other_key(facts: Facts) -> Iterator[Problem]:
    """Every process of a home signs with the key that it was first written with."""
    if not _in_home(facts, "fingerprint") or facts.origins is None:
        return
    secret = facts.origins.settings.secret
    if not secret and not _in_home(facts, "key"):
        yield Problem(
            f"The home {facts.home} was written with a secret, and none is set here",
            "set UWSGITASKS_SECRET, as the server has it",
        )
        return
    try:
        Home(facts.home).keys(secret)
    except (ConfigError, UwsgiTasksError) as error:
        yield Problem(str(error), "set the same `secret` everywhere")


@check("UT-W017", "tasks wait for a server")
def nobody_takes(facts: Facts) -> Iterator[Problem]:
    """They run when it is started; nothing is lost."""
    now = time.time()
    waiting, oldest = 0, now
    for spool in facts.spools:
        for name in os.listdir(spool) if os.access(spool, os.R_OK) else ():
            if name.startswith("uwsgi_spoolfile_on_"):
                try:
                    oldest = min(oldest, os.lstat(f"{spool}/{name}").st_mtime)
                except OSError:
                    continue
                waiting += 1
    if waiting and facts.home and not is_up(facts):
        yield Problem(
            f"{waiting} {'tasks wait' if waiting > 1 else 'task waits'}, the oldest for"
            f" {now - oldest:.0f} s, and no server runs",
            "start uWSGI, or `uwsgi-tasks worker`",
        )


@check("UT-E015", "a home of another release")
def other_format(facts: Facts) -> Iterator[Problem]:
    """A newer release changed the store; an older one is brought up to date at its first use."""
    path = _in_home(facts, "store.db")
    if path and (version := _version_of(path)) > _known_version():
        yield Problem(
            f"A newer release of uwsgi-tasks wrote {path} (version {version}): this one, which"
            f" knows version {_known_version()}, can't use it",
            "install that release here",
        )


def _version_of(path: str) -> int:
    """Return the version of a store: ``user_version``, at offset 60 of SQLite's file format."""
    with open(path, "rb") as file:
        file.seek(60)
        return int.from_bytes(file.read(4), "big")


def _known_version() -> int:
    from ..store import database

    return len(database._MIGRATIONS)
