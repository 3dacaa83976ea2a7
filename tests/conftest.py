"""Fixtures that all rings share."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.server import ACTIVE, UwsgiServer

Factory = Callable[..., UwsgiServer]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about five seconds")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.failed:
        for server in ACTIVE:
            with contextlib.suppress(OSError):
                report.sections.append((f"uWSGI in {server.dir}", server.explain()))
    return report


def _factory() -> Iterator[Factory]:
    with contextlib.ExitStack() as stack:

        def start(source: str, *lines: str, started: bool = True, **options: Any) -> UwsgiServer:
            server = UwsgiServer(source, *lines, **options)
            stack.callback(server.close)
            return server.start() if started else server

        yield start


@pytest.fixture
def uwsgi() -> Iterator[Factory]:
    """Start servers that end with the test: ``uwsgi(source, *ini_lines, **options)``."""
    yield from _factory()


@pytest.fixture(scope="module")
def module_uwsgi() -> Iterator[Factory]:
    """Start servers that the tests of a module share."""
    yield from _factory()


@pytest.fixture
def tag() -> str:
    """A word of this test's own, to find its rows in the ledger of a shared server."""
    return uuid.uuid4().hex
