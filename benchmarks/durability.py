"""What a call costs by its durability, in memory and on disk. ``python -m benchmarks.durability``.

A server per file system; nobody takes tasks while calls are timed. Every call has to run exactly
once, or the benchmark fails; no figure ever makes it fail.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from .quick import MULE_BATCH, Side, file_system, shown, spool_root

CALLS = 200
KINDS = {"os": "spooler", "disk": "spooler", "memory": "mule"}


def measure(side: Side, durability: str) -> None:
    """Time calls of one durability, in batches that the queue has room for."""
    kind, took = KINDS[durability], []
    batch = MULE_BATCH if kind == "mule" else CALLS
    for _ in range(CALLS // batch):
        first = side.slots(batch)
        with side.stopped(kind):
            took += side.server.eval(
                f"timed(durable({durability!r}), items({first}, {batch}))", timeout=90
            )
        side.finish(first, batch)
    side.note(durability, [value / 1e3 for value in took])


def bare(folder: Path, content: bytes, number: int) -> list[float]:
    """Return µs that writing a file takes here, with an fsync of it and one of its directory."""
    took = []
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for name in range(number):
        path = folder / f"bare-{name}"
        started = time.perf_counter_ns()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, content)
        os.fsync(descriptor)
        os.close(descriptor)
        os.fsync(directory)
        took.append((time.perf_counter_ns() - started) / 1e3)
        path.unlink()
    os.close(directory)
    return took


def measure_place(place: str, rounds: int) -> None:
    """Print the rows of one file system."""
    tempfile.tempdir = place
    side = Side("ours")
    try:
        side.start()
        for _ in range(rounds):
            for durability in KINDS:
                measure(side, durability)
            side.note("bare", bare(side.server.dir, b"x" * 500, CALLS // 2))
        if side.server.letters():
            raise SystemExit(f"tasks died: {side.server.letters()}")
        where = file_system(place)
        for row in (*KINDS, "bare"):
            title = f'`durability="{row}"`' if row != "bare" else "a file and two fsyncs, bare"
            middle, last = (shown(side.samples[f"{row} {part}"]) for part in ("p50", "p99"))
            print(f"| {title} | {where} | {middle} | {last} |")
    finally:
        side.server.close()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken")
    parser.add_argument("--disk", default=os.getcwd(), help="a directory on a disk")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load"
        f" {os.getloadavg()[0]:.1f}; µs of one call; median (least to greatest) of"
        f" {options.rounds} rounds of {CALLS} calls, each of which ran exactly once\n"
    )
    print("| a call | spool on | p50 | p99 |\n|---|---|---|---|")
    for place in dict.fromkeys((spool_root(), options.disk)):
        measure_place(place, options.rounds)


if __name__ == "__main__":
    main()
