"""Delays, priorities and wake-ups: how late, how many, at what cost. ``python -m benchmarks.time``.

Each figure stands beside what it has to reach. Every call has to run exactly once and none early,
or the benchmark fails; no figure ever makes it fail.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer
from tests.support.watching import scans

from .quick import file_system, spool_root

APP = """
import os, time
import uwsgi_tasks
from uwsgi_tasks import engine, task, TaskExecutor, wire
from uwsgi_tasks.model import Message, new_id
from uwsgi_tasks.store import Waiting

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def mark(tag, due=0.0, seconds=0.0):
    started = time.time()
    if seconds:
        time.sleep(seconds)
    note(tag, due=due, started=started, ended=time.time())

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def nothing():
    pass

def fill(number, due, priority=None):
    site, spool = engine.current().require_site(), os.environ["TEST_DIR"] + "/spool"
    payload = wire.dump((("filled",), {}), "pickle")
    left, before = number, None
    while left:
        with site.store.transaction():
            for _ in range(min(left, 2000)):
                ident = new_id()
                message = Message(ident, mark.name, payload, created_at=time.time(), chain=ident,
                                  at=due, priority=priority, stored=True)
                envelope = wire.pack(message, site.signer)
                site.store.put(Waiting(ident, 1, due, priority, TaskExecutor.SPOOLER, spool, "",
                                       envelope))
            left -= min(left, 2000)
    if priority is not None:
        site.home.mark_priorities(wait=True)
    site.home.wake_timekeeper()

def delayed(number, over):
    for n in range(number):
        due = time.time() + 0.3 + (n * 0.618033 % 1) * over
        mark.options(at=due)("late", due)

def latencies(number):
    for n in range(number):
        mark("idle", time.time())
        time.sleep(0.02)

def inserts(number):
    took = []
    for n in range(number):
        due = time.time() + 7200 + n
        started = time.perf_counter_ns()
        mark.options(at=due)("later", due)
        took.append((time.perf_counter_ns() - started) / 1e3)
    return took

def calls(number):
    took = []
    for n in range(number):
        started = time.perf_counter_ns()
        nothing()
        took.append((time.perf_counter_ns() - started) / 1e3)
    return took

def make_due(number):
    site = engine.current().require_site()
    with site.store.transaction() as connection:
        connection.execute(
            "UPDATE waiting SET due = ? WHERE id IN (SELECT id FROM waiting WHERE state = 0"
            " ORDER BY due LIMIT ?)", (time.time(), number))
    site.home.wake_timekeeper()

def made_due(number):
    make_due(number)
    started, store = time.perf_counter(), engine.current().require_site().store
    while store.next_due() < time.time():
        time.sleep(0.02)
    return time.perf_counter() - started
"""
Row = tuple[str, str, str]


@contextlib.contextmanager
def server(*lines: str, started: bool = True) -> Iterator[UwsgiServer]:
    """Run a server with one spooler."""
    found = UwsgiServer(APP, "disable-logging = true", *lines)
    try:
        if started:
            found.start()
            found.call("mark", "warm")
            found.ledger.wait("warm")
        yield found
    finally:
        found.close()


def part(values: list[float], fraction: float) -> float:
    """Return a percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def rows_of(found: UwsgiServer, event: str, count: int, timeout: float = 120) -> list[Any]:
    """Return the rows of an event, each of which has to be there once."""
    rows = found.ledger.wait(event, count=count, timeout=timeout)
    if len(rows) != count:
        raise SystemExit(f"{len(rows)} runs of {count} calls of {event}")
    return rows


def lateness() -> Iterator[Row]:
    """Time delayed tasks at an idle spooler."""
    with server() as found:
        found.eval("delayed(400, 12)", timeout=60)
        time.sleep(12.5)  # who waits for rows reads them all, again and again
        late = [(row["started"] - row["due"]) * 1e3 for row in rows_of(found, "late", 400)]
    if min(late) < 0:
        raise SystemExit(f"a task started {-min(late):.3f} ms early")
    shown = f"p50 {part(late, 0.5):.2f}, p99 {part(late, 0.99):.2f}, most {max(late):.2f}"
    yield "lateness of delayed tasks, ms (none early)", shown, "p50 ≤ 2, p99 ≤ 10"


def _idle(found: UwsgiServer, name: str) -> tuple[float, float]:
    before = len(found.ledger.rows("idle"))
    found.eval("latencies(150)", timeout=60)
    rows = rows_of(found, "idle", before + 150)[before:]
    idle = part([(row["started"] - row["due"]) * 1e3 for row in rows], 0.5)
    (spooler,) = found.pids("spooler")
    os.kill(spooler, 19)
    found.eval("calls(3000) and 0", timeout=60)
    os.kill(spooler, 18)
    started = time.time()
    wait_until(lambda: not any(_lying(found)), 60, f"the spool is drained ({name})")
    return idle, 3000 / (time.time() - started)


def _lying(found: UwsgiServer) -> Iterator[str]:
    return (name for name in os.listdir(found.spool) if name.startswith("uwsgi_spoolfile"))


def standing(number: int, rounds: int) -> Iterator[Row]:
    """Compare idle latency and drain with and without tasks that wait for tomorrow."""
    with server() as empty, server() as full:
        full.eval(f"fill({number}, time.time() + 86400)", timeout=120)
        figures = [(_idle(empty, "empty"), _idle(full, "full")) for _ in range(rounds)]
    slower = statistics.median(full[0] / empty[0] for empty, full in figures)
    drained = statistics.median(empty[1] / full[1] for empty, full in figures)
    idle = statistics.median(full[0] for _, full in figures)
    rate = statistics.median(full[1] for _, full in figures)
    title = f"with {number:,} tasks for tomorrow"
    yield f"idle latency {title}", f"{idle:.2f} ms, {slower:.2f}x of none", "≤ 1.2x"
    yield f"drain {title}", f"{rate:,.0f} tasks/s, {drained:.2f}x slower than none", "≤ 1.2x"


def busy() -> Iterator[Row]:
    """Time from the end of a task to the start of one that came meanwhile."""
    for frequency in ("", "spooler-frequency = 1", "spooler-frequency = 60"):
        with server(*[frequency] * bool(frequency)) as found:
            gaps = []
            for n in range(25):
                found.call("mark", f"first {n}", seconds=0.03)
                found.call("mark", f"next {n}")
                started = found.ledger.wait_one(f"next {n}")["started"]
                gaps.append((started - found.ledger.wait_one(f"first {n}")["ended"]) * 1e3)
        shown = f"p50 {part(gaps, 0.5):.2f}, most {max(gaps):.2f}"
        yield f"next start at a busy spooler, {frequency or 'default'}, ms", shown, "≤ 3"


def burst() -> Iterator[Row]:
    """Count the scans that a burst causes."""
    with server() as found, scans(found.spool) as seen:
        found.eval("[mark('burst', 0, 0.005) for _ in range(500)] and 0", timeout=60)
        rows_of(found, "burst", 500)
        wait_until(lambda: not any(_lying(found)))
        time.sleep(0.2)
        yield "scans for a burst of 500 tasks of 5 ms", str(seen.count()), "a few"


def priorities(lines: tuple[str, ...], ready: int) -> Iterator[Row]:
    """Time the way of an urgent task past many that aren't."""
    with server(*lines) as found:
        found.eval(f"fill({ready}, 0.0, 9.0)", timeout=120)
        found.eval("mark.options(priority=9)('nine', 0, 0.005) and 0")
        took = []
        for n in range(15):
            called = found.eval(f"(time.time(), mark.options(priority=1)('one {n}'))")[0]
            took.append((found.ledger.wait_one(f"one {n}")["started"] - called) * 1e3)
    how = "ordered" if lines else "plain"
    shown = f"p50 {part(took, 0.5):.1f}, most {max(took):.1f}"
    yield f"priority 1 behind {ready:,} of priority 9, {how}, ms", shown, "≤ a window + 50"


def behind(lines: tuple[str, ...], number: int = 10_000) -> Iterator[Row]:
    """Time an urgent task behind tasks of 5 ms that were called one by one."""
    with server(*lines) as found:
        found.eval(
            f"[mark.options(priority=9)('nine', 0, 0.005) for _ in range({number})] and 0",
            timeout=120,
        )
        called = found.eval("(time.time(), mark.options(priority=1)('one'))")[0]
        took = (found.ledger.wait_one("one", timeout=60)["started"] - called) * 1e3
    how = "ordered" if lines else "plain"
    yield f"priority 1 called behind {number:,} calls of 5 ms, {how}, ms", f"{took:.1f}", "≤ 55"


def million(number: int) -> Iterator[Row]:
    """Insert, start and promote with a million tasks waiting."""
    with server() as found:
        found.eval(f"fill({number}, time.time() + 86400)", timeout=600)
        took = found.eval("inserts(4000)", timeout=60)
        shown = f"p50 {part(took, 0.5):.0f}, p99 {part(took, 0.99):.0f}"
        yield f"delayed call with {number:,} waiting, µs", shown, "p50 ≤ 60"
        size = (found.home / "store.db").stat().st_size
        yield f"store with {number:,} waiting", f"{size / 1e6:.0f} MB", "reported"
        found.stop()
        started = time.time()
        found.start_again()
        found.call("mark", "up")
        up = found.ledger.wait_one("up")["started"] - started
        yield f"start to the first run with {number:,} waiting, s", f"{up:.2f}", "≤ 2"
        yield from promotion(found, number)


def promotion(found: UwsgiServer, number: int) -> Iterator[Row]:
    """Let tasks become due while nobody takes any, and count how fast they enter the spool."""
    many = min(50_000, number)
    found.eval("uwsgi_tasks.pause() and 0")
    rates = []
    for _ in range(3):
        seconds = found.eval(f"made_due({many})", timeout=120)
        rates.append(many / seconds)
    yield "promotion, tasks/s", f"{statistics.median(rates):,.0f}", "≥ 20,000"
    if sum(1 for _ in _lying(found)) != 3 * many:
        raise SystemExit("not every task that was due entered the spool")
    found.eval(f"make_due({many})", timeout=60)
    took = found.eval("inserts(300)", timeout=60)
    shown = f"p50 {part(took, 0.5):.0f}, p99 {part(took, 0.99):.0f}, most {max(took):.0f}"
    yield "delayed call during it, µs", shown, "most ≤ 25,000"
    (spooler,) = found.pids("spooler")
    status = Path(f"/proc/{spooler}/status").read_text()
    memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
    yield "memory of the process that keeps time", f"{memory:.0f} MB", "reported"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--waiting", type=int, default=1_000_000, help="how many tasks wait")
    parser.add_argument("--only", default="", help="the measurements whose names hold this")
    options = parser.parse_args()
    tempfile.tempdir = spool_root()
    ordered = ("spooler-ordered = true",)
    steps: dict[str, Callable[[], Iterator[Row]]] = {
        "lateness": lateness,
        "standing": lambda: standing(100_000, 3),
        "busy": busy,
        "burst": burst,
        "behind plain": lambda: behind(()),
        "behind ordered": lambda: behind(ordered),
        "priorities plain": lambda: priorities((), 100_000),
        "priorities ordered": lambda: priorities(ordered, 100_000),
        "million": lambda: million(options.waiting),
    }
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load"
        f" {os.getloadavg()[0]:.1f}, on {file_system(tempfile.tempdir)}\n\n"
        "| what | figure | to reach |\n|---|---|---|"
    )
    for name, step in steps.items():
        if options.only in name:
            for row in step():
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
