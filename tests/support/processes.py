"""Processes as /proc tells of them: who belongs to a session, and whether they live."""

from __future__ import annotations

import os
from pathlib import Path


def of_session(session: int) -> list[int]:
    """Return the living processes of a session; zombies are dead."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _session(int(entry)) == session:
            found.append(int(entry))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie doesn't."""
    return _session(pid) is not None


def parent(pid: int) -> int:
    """Return the parent of a process, 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def is_stopped(pid: int) -> bool:
    """Tell whether SIGSTOP has reached a process."""
    return _stat(pid)[:1] == ["T"]


def holds_a_write_lock(pid: int, *paths: Path) -> bool:
    """Tell whether a process holds a record lock for writing on one of the files."""
    inodes = {str(path.stat().st_ino) for path in paths if path.exists()}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()  # "1: POSIX  ADVISORY  WRITE 4242 fe:00:131 0 EOF"
        if fields[3:5] == ["WRITE", str(pid)] and fields[5].rpartition(":")[2] in inodes:
            return True
    return False


def command(pid: int) -> str:
    """Return the command line of a process."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
