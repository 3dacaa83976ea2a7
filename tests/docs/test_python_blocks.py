"""Every Python block of the README and of the pages runs, from top to bottom of its page."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .frames import FRAMES
from .pages import PAGES, ROOT, blocks, name_of

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
ENVIRONMENT = {
    "docs/tutorial/first-task.md": {"UWSGITASKS_SPOOLER": "spool"},
    "docs/how-to/schedules.md": {"UWSGITASKS_SPOOLER": "spool"},
}

# A block that names its file is imported as that module, the others share a module of their own.
DRIVER = """
import importlib, json, sys
sys.path.insert(0, "")
page = sys.modules["page"] = type(sys)("page")
for file, line, text in json.load(sys.stdin):
    if file:
        name = file.removesuffix(".py").removesuffix("/__init__")
        importlib.import_module(name.replace("/", "."))
    else:
        exec(compile(text, f"line {line} of the page", "exec"), vars(page))
"""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_given_a_page_when_its_blocks_run_in_order_then_none_fails(page, tmp_path):
    found = blocks(page, "python")
    contents = {**FRAMES.get(name_of(page), {}), **{b.file: b.text for b in found if b.file}}
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "spool").mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UWSGI", "DJANGO"))}
    env |= ENVIRONMENT.get(name_of(page), {})
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER],
        input=json.dumps([(block.file, block.line, block.text) for block in found]),
        env={**env, "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
