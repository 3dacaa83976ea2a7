"""Every Python block of the README and of the pages runs, from top to bottom of its page."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .frames import FRAMES
from .pages import PAGES, ROOT, blocks, name_of

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
MODULES_OF_A_PAGE = {"docs/tutorial/first-task.md": {"UWSGITASKS_SPOOLER": "spool"}}

DRIVER = """
import importlib, json, sys
sys.path.insert(0, "")
shared = {"__name__": "page"}
page = type(sys)("page")
sys.modules["page"] = page
for file, line, text in json.load(sys.stdin):
    where = f"line {line}"
    if file:
        name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        importlib.import_module(name)
    else:
        exec(compile(text, where, "exec"), vars(page))
"""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_given_a_page_when_its_blocks_run_in_order_then_none_fails(page, tmp_path):
    import json

    found = blocks(page, "python")
    contents = {**FRAMES.get(name_of(page), {}), **{b.file: b.text for b in found if b.file}}
    for name, text in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "spool").mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UWSGI", "DJANGO"))}
    env |= MODULES_OF_A_PAGE.get(name_of(page), {})
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
