"""Good tasks beside tasks that kill their process. ``python -m benchmarks.poison``.

One spooler is kept busy with good tasks, for a while without and for a while with tasks among them
that kill it, in turns. Every good task has to run exactly once, and every one that kills exactly
``max_crashes`` times, or the benchmark fails; no figure ever makes it fail.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

from .quick import file_system, shown, spool_root

HERE = Path(__file__).parent
DEATHS = 3
BACKLOG = 100
FINISH_S = 60.0


class Bench:
    """A server with its streams, and what was measured."""

    def __init__(self, spoolers: int, work: float) -> None:
        self.server = UwsgiServer(
            (HERE / "app_poison.py").read_text().replace("from __future__ import annotations", ""),
            "disable-logging = true",
            f"spooler-processes = {spoolers}",
        )
        self.work = work
        self.poisons = 0
        self.used = 0

    def stream(self, seconds: float, poison_at: list[float]) -> float:
        """Return how many good tasks ran per second; everything has ended when it returns."""
        first, number, ran = self.server.eval(
            f"feed({seconds}, {self.work}, {BACKLOG}, {poison_at})", timeout=seconds + 60
        )
        self.poisons += len(poison_at)
        self.used += number
        wait_until(
            lambda: not self.server.eval(f"unfinished({first}, {number})"), FINISH_S, "good tasks"
        )
        self.wait_dead()
        wrong = self.server.eval(f"wrong({first}, {number})")
        if wrong:
            raise SystemExit(f"{wrong} of {number} good tasks didn't run exactly once")
        return float(ran) / seconds

    def wait_dead(self) -> None:
        """Wait until each that kills is dead, and check that it started as often as it may."""
        wait_until(lambda: len(self.server.letters()) >= self.poisons, FINISH_S, "dead letters")
        self.server.wait_empty(FINISH_S)
        for slot in range(self.poisons):
            if self.server.eval(f"starts({slot})") != [1] * DEATHS:
                raise SystemExit("a task that kills didn't run exactly max_crashes times")
        if len(self.server.letters()) != self.poisons:
            raise SystemExit(f"not just what kills is dead: {self.server.letters()}")

    def alone(self) -> float:
        """Return ms from the death of a task to its next start, nothing else being queued."""
        slot = self.server.eval("call_poison()")
        self.poisons += 1
        self.wait_dead()
        return float(self.server.eval(f"gaps({slot + 1})")[slot * DEATHS][0])


def run(options: argparse.Namespace, spoolers: int) -> None:
    """Measure with so many spooler processes, and print the rows."""
    bench = Bench(spoolers, options.work / 1e3)
    spread = [(n + 0.5) * options.seconds / options.poison for n in range(options.poison)]
    rates: dict[bool, list[float]] = {False: [], True: []}
    try:
        bench.server.start()
        bench.stream(2.0, [])  # warm
        reruns = [bench.alone() for _ in range(options.rounds)]
        first = bench.poisons
        for number in range(options.rounds):
            for poisoned in (False, True) if number % 2 else (True, False):
                rates[poisoned].append(bench.stream(options.seconds, spread if poisoned else []))
        gaps = bench.server.eval(f"gaps({bench.poisons})")[first * DEATHS :]
    finally:
        bench.server.close()
    kept = [100 * b / a for a, b in zip(rates[False], rates[True], strict=True)]
    lost = [gap[1] for gap in gaps]
    who = f"{spoolers} spooler{'s' * (spoolers > 1)}"
    crashes = options.poison * DEATHS
    print(f"| {who}: good tasks | per s | {shown(rates[False])} |")
    print(
        f"| … with {options.poison} that kill ({crashes} deaths) | per s | {shown(rates[True])} |"
    )
    print(f"| … of the rate without | % | {shown(kept)} |")
    print(f"| … a death to the next good task | ms | {shown(lost)} |")
    print(f"| … a death to its next start, first time | ms | {shown([g[0] for g in gaps[::3]])} |")
    print(f"| … the same, nothing else queued | ms | {shown(reruns)} |")
    print(f"| {bench.used} good tasks ran once, {bench.poisons} others {DEATHS} times | | |")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is taken")
    parser.add_argument("--poison", type=int, default=1, help="tasks that kill, in each stream")
    parser.add_argument("--work", type=float, default=2.0, help="ms that a good task takes")
    parser.add_argument("--spoolers", type=int, nargs="+", default=[1, 2], help="processes")
    options = parser.parse_args()
    tempfile.tempdir = spool_root()
    started = time.monotonic()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load"
        f" {os.getloadavg()[0]:.1f}; spool on {file_system(tempfile.tempdir)}; good tasks of"
        f" {options.work:g} ms, {BACKLOG} always queued, {options.seconds:g} s a stream; median"
        f" (least to greatest)\n"
    )
    print("| what | unit | |\n|---|---|---|")
    for spoolers in options.spoolers:
        run(options, spoolers)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
