"""The table of checks: each registers itself once, under an id that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..config import Origins
from .ini import Options

SEVERITIES = {"E": "error", "W": "warning", "H": "hint"}


class Facts(NamedTuple):
    """What the checks look at; each leaves out what isn't known.

    Attributes:
        options: Options of uWSGI: of an ini file, or of the running server.
        origins: The settings in force, with their sources.
        refusal: Why the settings can't be meant, where they can't.
        known: Names of the options that this machine's uWSGI has; empty if that isn't known.
        needs_binary_path: uWSGI is the wheel pyuwsgi, in a virtual environment.
        spools: Spool directories.
        home: Path of the home; empty for none.
        uid: Number of the user who runs the server.
        record: What the server wrote down of itself; empty if it didn't.
        timeouts: ``timeout`` of each task that is known here, by name.
        has_master: A running server has a master; ``None``: the options tell.
        is_loaded_late: A running server's worker imported the library after the fork; ``None``: the
            options tell.
    """

    options: Options
    origins: Origins | None = None
    refusal: str = ""
    known: frozenset[str] = frozenset()
    needs_binary_path: bool = False
    spools: tuple[str, ...] = ()
    home: str = ""
    uid: int = -1
    record: Mapping[str, Any] = MappingProxyType({})
    timeouts: tuple[tuple[str, float], ...] = ()
    has_master: bool | None = None
    is_loaded_late: bool | None = None


class Problem(NamedTuple):
    """What a check has to say.

    Attributes:
        sentence: One sentence: what is wrong, and what follows.
        cure: What to do; empty where the lines say it.
        lines: Lines to add to ``uwsgi.ini``.
    """

    sentence: str
    cure: str = ""
    lines: tuple[str, ...] = ()


class Finding(NamedTuple):
    """A problem that a check found.

    Attributes:
        id: Stable: ``UT-E001``.
        severity: ``"error"`` (something doesn't work), ``"warning"`` (something will go wrong) or
            ``"hint"`` (something could be better).
        sentence: One sentence: what is wrong, and what follows.
        cure: What to do.
        lines: Lines to add to ``uwsgi.ini``.
    """

    id: str
    severity: str
    sentence: str
    cure: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.sentence}; {self.cure} ({self.id})"


class Check(NamedTuple):
    """An entry of the table.

    Attributes:
        id: Stable.
        title: A few words.
        function: Yields the problems.
        at_start: The library looks at it when uWSGI starts, too: it costs nothing.
    """

    id: str
    title: str
    function: Callable[[Facts], Iterator[Problem]]
    at_start: bool

    @property
    def severity(self) -> str:
        """See ``Finding``."""
        return SEVERITIES[self.id[3]]

    def findings(self, facts: Facts) -> list[Finding]:
        """Return what the check finds."""
        return [self._finding(problem) for problem in self.function(facts)]

    def _finding(self, problem: Problem) -> Finding:
        lines = " and ".join(f"`{line}`" for line in problem.lines)
        cure = problem.cure or f"add {lines} to uwsgi.ini"
        return Finding(self.id, self.severity, problem.sentence, cure, problem.lines)


CHECKS: dict[str, Check] = {}
Function = Callable[[Facts], Iterator[Problem]]


def check(ident: str, title: str, *, at_start: bool = False) -> Callable[[Function], Function]:
    """Enter a function into the table.

    Args:
        ident: ``UT-E…`` for an error, ``UT-W…`` for a warning, ``UT-H…`` for a hint.
        title: A few words.
        at_start: The library looks at it when uWSGI starts, too.
    """

    def enter(function: Function) -> Function:
        assert ident not in CHECKS
        CHECKS[ident] = Check(ident, title, function, at_start)
        return function

    return enter
