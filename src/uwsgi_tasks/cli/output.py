"""How things are shown: tables, JSON, moments and durations."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

_WIDE = 130
_STYLES = {
    "ok": "green",
    "dead": "red",
    "expired": "red",
    "running": "cyan",
    "error": "red",
    "warning": "yellow",
    "cancelled": "dim",
}


def is_rich() -> bool:
    """Tell whether colours and boxes can be shown: on a terminal, with rich installed."""
    if not sys.stdout.isatty():
        return False
    try:
        import rich.table
    except ImportError:
        return False
    return bool(rich.table)


def as_json(value: Any) -> None:
    """Show a value as JSON."""
    click.echo(json.dumps(plain(value), indent=2, default=str))


def plain(value: Any) -> Any:
    """Return a value with its named tuples as dicts."""
    if hasattr(value, "_asdict"):
        return {name: plain(inner) for name, inner in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, wide: Sequence[str] = ()
) -> None:
    """Show rows: a table on a terminal with rich, else tab-separated values with a header.

    Args:
        columns: Names of the columns.
        rows: A value for each of them.
        wide: Columns that are left out on a narrow terminal.
    """
    if is_rich():
        if shutil.get_terminal_size().columns < _WIDE:
            kept = [n for n, column in enumerate(columns) if column not in wide]
            columns, rows = [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]
        _rich_table(columns, rows)
        return
    click.echo("\t".join(columns))
    for row in rows:
        click.echo("\t".join(_cell(value) for value in row))


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _rich_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        cells = ["" if value is None else str(value) for value in row]
        shown.add_row(*[Text(cell, style=_STYLES.get(cell, "")) for cell in cells])
    Console().print(shown)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Show names with their values, one a line."""
    listed = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        click.echo(f"{name:<{width}}  {value}")


def moment(stamp: float | None, *, exact: bool = False) -> str:
    """Return epoch seconds as local time, empty for none; exact is to the millisecond."""
    if not stamp:
        return ""
    precision = "milliseconds" if exact else "seconds"
    return datetime.fromtimestamp(stamp).astimezone().isoformat(" ", precision)


def brief(stamp: float | None) -> str:
    """Return a moment as ``moment`` does, and shorter on a terminal with rich."""
    if stamp and is_rich():
        return time.strftime("%m-%d %H:%M:%S", time.localtime(stamp))
    return moment(stamp)


def many(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def ago(stamp: float | None) -> str:
    """Return how long ago a moment was, or in how long it will be."""
    if not stamp:
        return ""
    seconds = time.time() - stamp
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Return seconds in the largest two units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, smaller, inner in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // smaller:.0f} {inner}"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60 // 1:.0f} s"
    return f"{seconds:.0f} s"


def bar(done: float, total: float | None, width: int = 30) -> str:
    """Return a bar of plain characters."""
    if not total:
        return f"[{'?' * width}]"
    filled = int(width * min(max(done / total, 0.0), 1.0))
    return f"[{'#' * filled}{'.' * (width - filled)}] {100 * done / total:3.0f} %"
