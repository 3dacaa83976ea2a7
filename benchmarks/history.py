"""What the history costs, and how fast it answers. ``python -m benchmarks.history``.

A server per way of keeping it, one spooler each, which drains a full spool of no-op tasks, in turn
with the others; then a store of many finished runs is asked and pruned. Every call has to run
exactly once, or the benchmark fails; no figure ever makes it fail.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Any

from uwsgi_tasks import configure, engine, observe, task
from uwsgi_tasks.home import NAME
from uwsgi_tasks.journal import Record
from uwsgi_tasks.model import new_id

from .quick import Side, file_system, shown, spool_root

WAYS = {
    "no history": {"UWSGITASKS_HISTORY": "false"},
    "history": {},
    "history and results": {"UWSGITASKS_STORE_RESULTS": "true"},
}
BATCH = 1000


def drains(rounds: int) -> None:
    """Print how many tasks a second one spooler ends, by what is kept of them."""
    sides = {name: Side("ours") for name in WAYS}
    try:
        for name, side in sides.items():
            side.server._env.update(WAYS[name])
            side.start()
        for _ in range(rounds):
            for side in sides.values():
                side.drain()
        print("| one spooler drains | tasks/s | µs of CPU a task |\n|---|---|---|")
        for name, side in sides.items():
            rate = shown(side.samples["drain, 1 spooler p50"])
            print(f"| {name} | {rate} | {shown(side.samples.get('a run, 1 spooler p50', []))} |")
    finally:
        for side in sides.values():
            side.server.close()


def fill(number: int) -> None:
    """Let a store have that many finished runs, of 20 tasks, one in 20 dead."""
    store, now = engine.current().require_site().store, time.time()
    for first in range(0, number, BATCH):
        store.add_runs(
            Record(
                new_id(),
                random.choice([1] * 19 + [3]),
                f"app.task{random.randrange(20)}",
                random.choice(["default"] * 4 + ["mail"]),
                2,
                None,
                now - number + first + n,
                now - number + first + n,
                now - number + first + n + 0.5,
                pid=1,
            )
            for n in range(BATCH)
        )


def asked(name: str, ask: Callable[[], Any]) -> None:
    """Print how long a question takes, the median of 7."""
    took = []
    for _ in range(7):
        started = time.perf_counter()
        ask()
        took.append((time.perf_counter() - started) * 1e3)
    print(f"| {name} | {shown(took)} ms |")


def calls(seconds: float) -> list[float]:
    """Return µs of calls that have to wait for their time: they are written to the same store."""
    took, until = [], time.monotonic() + seconds
    later = noop.options(at=time.time() + 86400)
    while time.monotonic() < until:
        started = time.perf_counter()
        later()
        took.append((time.perf_counter() - started) * 1e6)
        time.sleep(0.001)
    return sorted(took)


@task(name="bench.noop", executor="spooler")
def noop() -> None:
    """Do nothing."""


def store(number: int) -> None:
    """Print how fast a store of many runs answers, and what pruning it does to those who call."""
    spool = tempfile.mkdtemp(dir=spool_root())
    configure(spooler=spool)
    try:
        started = time.perf_counter()
        fill(number)
        took = (time.perf_counter() - started) / number * 1e6
        print(f"\n{number} finished runs in {spool_root()}, {took:.1f} µs each to write\n")
        print("| question | answer |\n|---|---|")
        asked("`status()`", observe.status)
        asked("`runs()`", observe.runs)
        asked('`runs(state="dead")`', lambda: observe.runs(state="dead"))
        asked('`runs(task="app.task3")`', lambda: observe.runs(task="app.task3"))
        asked('`runs(state="dead", task=…)`', lambda: observe.runs("dead", "app.task3"))
        asked('`runs(queue="mail")`', lambda: observe.runs(queue="mail"))
        asked("`runs(task=…)`, none of it", lambda: observe.runs(task="nothing"))
        pruning(number)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def pruning(number: int) -> None:
    """Print the 99th percentile of a delayed call without pruning and with it."""
    site, quiet = engine.current().require_site(), calls(5)
    before = sum(site.store.counts().values())
    child = os.fork()
    if not child:  # as the timekeeper, in another process
        while True:
            time.sleep(site.history.tend(time.time(), 1e9, number // 2))
    busy = calls(5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    gone = before - sum(site.store.counts().values())
    last = [took[int(len(took) * 0.99)] for took in (quiet, busy)]
    print(f"\nA delayed call, p99: {last[0]:.0f} µs; {last[1]:.0f} µs while {gone} runs are pruned")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each drain is measured")
    parser.add_argument("--runs", type=int, default=1_000_000, help="finished runs in the store")
    options = parser.parse_args()
    tempfile.tempdir = spool_root()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load"
        f" {os.getloadavg()[0]:.1f}, {file_system(spool_root())} ({NAME} beside the spool);"
        f" median (least to greatest)\n"
    )
    with contextlib.suppress(KeyboardInterrupt):
        if options.rounds:
            drains(options.rounds)
        if options.runs:
            store(options.runs)


if __name__ == "__main__":
    main()
