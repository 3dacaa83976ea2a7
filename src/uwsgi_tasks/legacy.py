"""Spool files that release 0.7.3 wrote: recognised, and read only where the user allows it.

Their format, found by their bytes: four variables ``function_name``, ``args``, ``kwargs`` and
``setup``, the last three pickled; where they didn't fit a packet, a body that is one pickled dict
of ``args`` and ``kwargs``. There is no id, no attempt and no signature.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from . import wire
from .errors import WireError
from .executors.spooler import FILE_PREFIX
from .model import Message
from .retry import RetryPolicy

_LONGEST_NAME = 1000
_KEYS = (b"function_name", b"args", b"kwargs", b"setup")


class ProxyDict(dict):  # type: ignore[type-arg]
    """What a buffer of release 0.7.3 is unpickled into."""


def old_files(spools: Sequence[str]) -> frozenset[str]:
    """Return the names of the spool files that lie in the spools now, one level down included."""
    names: set[str] = set()
    for spool in spools:
        for _, _, files in os.walk(spool):
            names.update(name for name in files if name.startswith(FILE_PREFIX))
    return frozenset(names)


def is_old(env: dict[Any, Any]) -> bool:
    """Tell whether a file claims to be of release 0.7.3."""
    return all(key in env for key in _KEYS)


def content_of(env: dict[Any, Any]) -> bytes:
    """Return what is kept of such a file in a dead letter: its variables and its body, as text."""
    return repr(env).encode()


def message_of(env: dict[Any, Any], name: str) -> Message:
    """Return the message in a file of release 0.7.3; unpickles it.

    Args:
        env: What uWSGI gives its hook.
        name: Name of the file; the id follows from it, so that a second run keeps it.

    Raises:
        WireError: It can't be read.
    """
    try:
        setup = dict(_load(env[b"setup"]))
        args, kwargs = _load(env[b"args"]), _load(env[b"kwargs"])
        if "body" in env:
            body = _load(env["body"])
            args, kwargs = body["args"], body["kwargs"]
        return _message(env, name, setup, (tuple(args), dict(kwargs)))
    except Exception as error:  # unpickling runs what the file says; the user allowed it
        raise WireError(f"The file of release 0.7.3 can't be read: {error}") from error


def _load(data: bytes) -> Any:
    allowed = {("uwsgi_tasks.utils", "ProxyDict"): ProxyDict}
    return wire.MappedUnpickler(data, allowed).load()


def _message(
    env: dict[Any, Any], name: str, setup: dict[str, Any], arguments: tuple[Any, ...]
) -> Message:
    ident = id_of(name)
    count, wait = setup.get("retry_count") or None, setup.get("retry_timeout") or 0
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
    buffer = setup.get("buffer")
    task = env[b"function_name"].decode()
    if not task.isprintable() or len(task) > _LONGEST_NAME:
        raise ValueError("its task has no name that can be shown")
    return Message(
        ident,
        task,
        wire.dump(arguments, "pickle"),
        created_at=int(ident[:19]) / 1e9,
        chain=ident,
        at=float(env.get(b"at") or 0),
        executions_left=count,
        policy=RetryPolicy(count, seconds) if count else None,
        reads_codes=bool(count or setup.get("spooler_return")) or None,
        working_dir=os.fspath(setup.get("working_dir") or ""),
        buffer=wire.dump(dict(buffer), "pickle") if buffer else b"",
    )


def id_of(name: str) -> str:
    """Return an id that follows from the file's name, which ends in seconds and microseconds."""
    seconds, _, micros = name.rpartition("_")
    seconds = seconds.rpartition("_")[2]
    known = seconds.isdigit() and micros.isdigit() and len(seconds) < 11
    nanoseconds = int(seconds) * 10**9 + int(micros) * 1000 if known else 0
    return f"{nanoseconds:019d}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
