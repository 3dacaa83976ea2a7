"""Every ini block is one that uWSGI accepts, and every setting in it is one of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uwsgi_tasks.config import Settings

from .pages import PAGES, Block, blocks

UWSGI = Path(sys.executable).with_name("uwsgi")
INI = [block for page in PAGES for block in blocks(page, "ini")]


def where(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", INI, ids=where)
def test_given_an_ini_block_when_uwsgi_reads_it_strictly_then_it_knows_every_option(
    block, tmp_path
):
    ini = tmp_path / "uwsgi.ini"
    ini.write_text(block.text + "\nversion = true\n")  # it ends there, before it starts anything
    done = subprocess.run(
        [str(UWSGI), "--strict", "--ini", str(ini)],
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", INI, ids=where)
def test_given_an_ini_block_when_it_sets_something_of_ours_then_it_is_a_setting(block):
    names = re.findall(r"^set-ph = tasks-([\w-]+)=", block.text, re.M)
    assert [name for name in names if name.replace("-", "_") not in Settings._fields] == []


def test_given_an_unknown_option_when_uwsgi_reads_it_strictly_then_it_refuses(tmp_path):
    ini = tmp_path / "uwsgi.ini"
    ini.write_text("[uwsgi]\nno-such-option = 1\nversion = true\n")
    done = subprocess.run([str(UWSGI), "--strict", "--ini", str(ini)], capture_output=True)
    assert done.returncode != 0
