"""What is wrong with a configuration, before it hurts: ``uwsgi-tasks check``.

Each check has a stable id and a row in ``CHECKS``. ``examine`` runs them all; the library itself
runs the cheap ones when uWSGI starts, and logs what they find.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import configuration, directories, lines, running
from .gather import of_files, of_server
from .table import CHECKS, SEVERITIES, Check, Facts, Finding, Problem

__all__ = [
    "CHECKS",
    "SEVERITIES",
    "Check",
    "Facts",
    "Finding",
    "Problem",
    "at_start",
    "examine",
    "of_files",
    "of_server",
]
_ORDER = ("error", "warning", "hint")
_modules = (configuration, lines, directories, running)
"""Imported for what they enter into the table."""


def examine(facts: Facts) -> list[Finding]:
    """Return what all checks find, errors first."""
    return _run(facts, CHECKS.values())


def at_start(facts: Facts) -> list[Finding]:
    """Return what the checks find that cost nothing, for a server that starts."""
    return _run(facts, [check for check in CHECKS.values() if check.at_start])


def _run(facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    found = [finding for check in checks for finding in check.findings(facts)]
    return sorted(found, key=lambda one: (_ORDER.index(one.severity), one.id))
