"""Fixtures of the contract: a world, and where and how its tasks travel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.worlds import FakeWorld, RealWorld
from tests.support.isolation import isolated


@pytest.fixture(scope="module")
def real() -> Iterator[RealWorld]:
    """The real server that all tests of a process share."""
    found = RealWorld()
    yield found
    found.close()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorld]:
    """A fake server of this test's own."""
    for _ in isolated(monkeypatch):
        found = FakeWorld(tmp_path)
        yield found
        found.close()


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> Any:
    """Either world."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["spooler", "mule", "runtime"])
def executor(request: pytest.FixtureRequest) -> str:
    """The executor that is asked for."""
    return str(request.param)


@pytest.fixture(params=["pickle", "json"])
def serializer(request: pytest.FixtureRequest) -> str:
    """The serialiser of the arguments and the buffer."""
    return str(request.param)


@pytest.fixture
def travel(executor: str, serializer: str) -> dict[str, Any]:
    """The options of a call that tell how it travels."""
    return {"executor": executor, "serializer": serializer}
