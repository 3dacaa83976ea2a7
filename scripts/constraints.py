"""Print the versions of uv.lock as constraints for pip, one a line.

A package that the lock holds in several versions has a marker for each. Parsed by hand because
Python 3.10 has no TOML reader and this runs before anything is installed.
"""

import re
from pathlib import Path

LOCK = Path(__file__).parent.parent / "uv.lock"


def constraints(lock: str) -> list[str]:
    lines = []
    for block in lock.split("\n[[package]]\n")[1:]:
        if 'source = { registry = "' not in block:
            continue  # the project itself
        name, version = re.findall(r'^(?:name|version) = "(.+)"$', block, re.MULTILINE)[:2]
        listed = re.search(r"^resolution-markers = \[(.*?)^\]", block, re.MULTILINE | re.DOTALL)
        markers = re.findall(r'"(.+)"', listed[1]) if listed else []
        condition = " or ".join(f"({marker})" for marker in markers)
        lines.append(f"{name}=={version}" + (f" ; {condition}" if condition else ""))
    return lines


if __name__ == "__main__":
    print("\n".join(constraints(LOCK.read_text(encoding="utf-8"))))
