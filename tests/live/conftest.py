"""Fixtures of the live ring."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def shell():
    """Run code in a plain Python, outside any server, with a server's spool configured."""

    def run(server, code, **env):
        library = importlib.util.find_spec("uwsgi_tasks")
        package = next(iter(library.submodule_search_locations))
        paths = [str(Path(package).parent), str(SUPPORT), str(server.dir)]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "UWSGITASKS_SPOOLER": str(server.spool),
            "TEST_LEDGER": str(server.ledger.path),
            "TEST_DIR": str(server.dir),
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=variables,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
