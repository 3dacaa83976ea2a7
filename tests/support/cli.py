"""The installed command, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = str(Path(sys.executable).with_name("uwsgi-tasks"))


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it showed with ``--json``."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the table that it showed."""
        header, *lines = [line.split("\t") for line in self.out.splitlines()]
        return [dict(zip(header, line, strict=True)) for line in lines]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user who has configured nothing."""
    sizes = ("COLUMNS", "LINES")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("UWSGITASKS_", *sizes))}
    return {**kept, "VIRTUAL_ENV": sys.prefix, **more}


def run_command(
    *words: Any, cwd: Any = "/", stdin: str = "", timeout: float = 40.0, **env: str
) -> Done:
    """Run ``uwsgi-tasks`` with these words."""
    done = subprocess.run(
        [PROGRAM, *map(str, words)],
        cwd=cwd,
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)
