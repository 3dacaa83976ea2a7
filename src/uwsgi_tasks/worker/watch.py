"""Watch source files by their times, for development."""

from __future__ import annotations

import importlib.machinery
import os
from collections.abc import Iterable, Iterator

_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class Watcher:
    """Tells which source file has changed.

    Args:
        roots: Directories, with what is below them.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self.roots = list(dict.fromkeys(map(os.path.realpath, roots)))
        self._times = self._look()

    def changed(self) -> str | None:
        """Return a file that has changed, come or gone since the last call, or ``None``."""
        before, self._times = self._times, self._look()
        if before == self._times:
            return None
        return min(path for path, _ in before.items() ^ self._times.items())

    def _look(self) -> dict[str, int]:
        found = {}
        for root in self.roots:
            for path in _sources(root):
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:  # an editor is about to replace it
                    continue
        return found


def _sources(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if name[0] != "." and name not in _SKIPPED]
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def roots_of(targets: Iterable[str], directory: str) -> list[str]:
    """Return where the source of targets lies: their packages, and the current directory."""
    roots = [directory]
    for target in targets:
        if target.endswith(".py"):
            roots.append(os.path.dirname(os.path.abspath(target)))
            continue
        package = target.partition(":")[0].partition(".")[0]
        found = importlib.machinery.PathFinder.find_spec(package)
        if found is not None:
            roots += found.submodule_search_locations or []
    return roots
