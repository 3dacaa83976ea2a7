"""The pages on the command line tell what the commands and checks are."""

from __future__ import annotations

import re

from scripts import cli_reference

from uwsgi_tasks import check

from .pages import ROOT

CHECKS = (ROOT / "docs/reference/checks.md").read_text()


def test_given_the_commands_when_their_help_is_read_then_the_reference_has_it():
    written = cli_reference.PAGE.read_text()
    assert written == cli_reference.page(), "run python scripts/cli_reference.py"


def test_given_the_checks_when_read_then_the_reference_has_exactly_them():
    rows = re.findall(r"^`(UT-\w+)` (.*?)( ⚑)?\n: ", CHECKS, re.M)
    wanted = [(one.id, one.title, " ⚑" * one.at_start) for one in check.CHECKS.values()]
    assert sorted(rows) == sorted(wanted)


def test_given_a_page_when_it_names_a_command_then_there_is_one():
    known = [path.split()[1:] for path, _ in cli_reference.commands()]
    named = re.findall(
        r"^uwsgi-tasks (?:--\w+ \S+ )?([a-z]+)",
        (ROOT / "docs/how-to/see-what-happens.md").read_text(),
        re.M,
    )
    assert named
    assert [name for name in named if [name] not in known] == []
