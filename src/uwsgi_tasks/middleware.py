"""Wrapping the call of a task's function: each cross-cutting thing is one small callable.

A middleware takes the run and the next callable, and returns what the function returned:

    def timed(run, call_next):
        started = time.monotonic()
        try:
            return call_next(run)
        finally:
            report(run.message.task, time.monotonic() - started)
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .model import Run, TaskExecutor

Call = Callable[[Run], Any]
Middleware = Callable[[Run, Call], Any]

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def compose(middleware: Sequence[Middleware]) -> Call:
    """Return one callable that passes a run through all of them, the first outermost."""
    call: Call = _call_function
    for layer in reversed(middleware):
        call = _bind(layer, call)
    return call


def _bind(layer: Middleware, call_next: Call) -> Call:
    return lambda run: layer(run, call_next)


def _call_function(run: Run) -> Any:
    assert run.spec is not None
    return run.spec.function(*run.args, **run.kwargs)


def in_working_dir(run: Run, call_next: Call) -> Any:
    """Run the task in its working directory.

    A directory that was asked for has to be there. The caller's own may be of a past release or
    of another container: then the server's stays, with one warning. On ``RUNTIME`` the caller's
    own directory is the present one already.
    """
    message = run.message
    path = message.working_dir
    if not path or (run.executor == TaskExecutor.RUNTIME and not message.working_dir_asked):
        return call_next(run)
    if run.executor != TaskExecutor.RUNTIME:  # spoolers and mules go back after each task
        _enter(path, message.working_dir_asked)
        return call_next(run)
    before = os.getcwd()
    if path != before:
        _enter(path, message.working_dir_asked)
    try:
        return call_next(run)
    finally:
        if path != before:
            os.chdir(before)


def _enter(path: str, asked: bool) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        if asked:
            raise type(error)(
                error.errno, f"The task's working_dir can't be entered: {error.strerror}", path
            ) from None
        if path not in _warned:
            _warned.add(path)
            logger.warning(
                "The directory %r, from which a task was called, can't be entered (%s): such tasks"
                " run in the server's own. Set working_dir=None to leave the directory alone",
                path,
                error.strerror,
            )


def with_django_connections(run: Run, call_next: Call) -> Any:
    """Give the task usable database connections where Django is in use, and none after it.

    Connections that are unusable or older than ``CONN_MAX_AGE`` are closed before and after the
    run, as Django does around a request. On ``RUNTIME`` they are the caller's and are left alone.
    """
    if run.executor == TaskExecutor.RUNTIME or "django.db" not in sys.modules:
        return call_next(run)
    close = sys.modules["django.db"].close_old_connections
    _quietly(close)
    try:
        return call_next(run)
    finally:
        _quietly(close)


def _quietly(close: Callable[[], None]) -> None:
    # settings that were never set up mean that there is no connection either
    with contextlib.suppress(Exception):
        close()


def drop_inherited_connections() -> None:
    """Forget the database connections that this process got by a fork.

    They are the parent's: closing one would say goodbye to the database on the parent's behalf, so
    they are kept from being collected and never used.
    """
    db = sys.modules.get("django.db")
    if db is None:
        return
    with contextlib.suppress(Exception):  # Django may be imported and not set up
        for wrapper in db.connections.all(initialized_only=True):
            if wrapper.connection is not None:
                _inherited.append(wrapper.connection)
                wrapper.connection = None


_inherited: list[Any] = []
BUILT_IN: tuple[Middleware, ...] = (with_django_connections, in_working_dir)
