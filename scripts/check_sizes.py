"""Fail when a module is longer than the house allows."""

import sys
from pathlib import Path

LIMIT = 450
SOURCE = Path(__file__).parent.parent / "src"

too_long = [
    f"{path.relative_to(SOURCE)}: {lines} lines, {LIMIT} at most"
    for path in sorted(SOURCE.rglob("*.py"))
    if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LIMIT
]
print("\n".join(too_long) or f"No module is longer than {LIMIT} lines")
sys.exit(bool(too_long))
