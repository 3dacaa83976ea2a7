"""Nothing of one in-process test is left for the next: settings, registries, hooks, connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from uwsgi_tasks import engine, handlers, middleware, runner, targets, tasks, timers
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.store import database

_BAGS: list[Any] = [
    engine.registry.specs,
    tasks._tasks,
    timers.declared,
    timers.on_declared,
    targets.on_added,
    handlers._previous,
    handlers._signals,
    handlers._seen,
    handlers._state,
    handlers._warned,
    runner._warned_of_none,
    middleware._warned,
    to_spool._in_hand,
]


def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test without settings of the environment, and put back what it changed."""
    for name in [name for name in os.environ if name.startswith("UWSGITASKS_")]:
        monkeypatch.delenv(name)
    before, directory = [type(bag)(bag) for bag in _BAGS], os.getcwd()
    opened = _connections(monkeypatch)
    engine.reset()
    try:
        yield
    finally:
        engine.reset()
        os.chdir(directory)
        for connection in opened:
            connection.close()
        for bag, content in zip(_BAGS, before, strict=True):
            bag.clear()
            bag.extend(content) if isinstance(bag, list) else bag.update(content)


def _connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the connections that the store opens, to close them: Python 3.13 warns of others."""
    opened: list[Any] = []
    original = database._open

    def recorded(path: str) -> Any:
        connection = original(path)
        opened.append(connection)
        return connection

    monkeypatch.setattr(database, "_open", recorded)
    return opened
