"""Fail when a module is longer than the house allows."""

import sys
from pathlib import Path

LIMIT = 450
long = [
    f"{path}: {lines} lines, {LIMIT} at most"
    for path in sorted(Path("src").rglob("*.py"))
    if (lines := len(path.read_text().splitlines())) > LIMIT
]
print("\n".join(long) or f"No module is longer than {LIMIT} lines")
sys.exit(bool(long))
