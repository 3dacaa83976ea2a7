"""Fixtures of the unit ring: no server, one process, nothing left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.fake_uwsgi import FakeUwsgi
from tests.support.isolation import isolated
from uwsgi_tasks import consumer, engine, recovery
from uwsgi_tasks.home import Home
from uwsgi_tasks.site import Site

settings.register_profile("unit", deadline=None, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hang_up = signal.getsignal(signal.SIGHUP)
    yield from isolated(monkeypatch)
    signal.signal(signal.SIGHUP, hang_up)  # the start of a spooler sets it
    consumer._recycler.clear()
    recovery.passed_over.clear()


@pytest.fixture
def spool(tmp_path: Path) -> str:
    """An empty spool directory."""
    path = tmp_path / "spool"
    path.mkdir()
    return str(path)


@pytest.fixture
def site(spool: str) -> Site:
    """A site beside the spool, as a server makes it."""
    return Site(Home(f"{spool}/.uwsgi_tasks"), ())


@pytest.fixture
def fake(spool: str) -> Callable[..., FakeUwsgi]:
    """Make this process a part of a fake server: ``fake(mules=1)``; with the spool unless told."""

    def make(**options: Any) -> FakeUwsgi:
        options.setdefault("spoolers", [spool])
        settings = options.pop("settings", {})
        found = FakeUwsgi(**options)
        engine.reset(engine.Engine(found.server(), settings))
        return found

    return make


@pytest.fixture
def here(fake: Callable[..., FakeUwsgi]) -> Callable[..., Site]:
    """Be a process of a fake server whose master lives: ``here(mules=1)``; return its site."""

    def start(is_a_reload: bool = False, **options: Any) -> Site:
        server = fake(**options)
        vars(server.module).update(is_a_reload=is_a_reload)
        engine.reset(engine.Engine(server.server(), options.get("settings", {})))
        return engine.current().require_site()

    return start
