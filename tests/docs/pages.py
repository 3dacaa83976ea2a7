"""The pages of the project, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>[\w{}-]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_NAMED = re.compile(r"[#;] (?P<file>[\w./-]+\.\w+)\n")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Path of its page, from the root of the project.
        line: Number of its first line.
        kind: ``python``, ``ini``, ``sh`` …
        text: What is in it, without the indentation of the fence.
        file: Name of the file that its first line tells, or empty.
    """

    page: str
    line: int
    kind: str
    text: str
    file: str


def name_of(page: Path) -> str:
    """Return the path of a page from the root of the project."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str = "") -> list[Block]:
    """Return the blocks of a page, those of one kind if it is named."""
    return [block for block in _blocks(page) if not kind or block.kind == kind]


def _blocks(page: Path) -> Iterator[Block]:
    content = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(content):
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
        named = _NAMED.match(text)
        line = content.count("\n", 0, match.start()) + 2
        yield Block(name_of(page), line, match["kind"], text, named["file"] if named else "")


def files(page: str) -> dict[str, str]:
    """Return the files that the blocks of a page make: name → content."""
    return {block.file: block.text for block in blocks(ROOT / page) if block.file}
