"""The types that users see."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.typing import api
from uwsgi_tasks import engine

ROOT = Path(__file__).parents[2]


def test_given_the_api_when_it_is_used_as_typed_then_it_runs() -> None:
    engine.reset()
    api.main()
    engine.reset()


@pytest.mark.slow
def test_given_the_api_when_mypy_reads_it_strictly_then_it_finds_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy isn't here: `make types` runs it too")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "tests/typing/api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
