"""The application of the benchmark of tasks that kill their process; imported before the fork."""

from __future__ import annotations

import mmap
import os
import signal
import time

from app_base import *  # noqa: F403  the driver evaluates in this module

from uwsgi_tasks import TaskExecutor, get_current_task, task

MOST = 1 << 17
DEATHS = 3
RUNS = memoryview(mmap.mmap(-1, 4 * MOST)).cast("I")
TIMES = memoryview(mmap.mmap(-1, 8 * MOST)).cast("q")
STARTS = memoryview(mmap.mmap(-1, 4096)).cast("I")
START_TIMES = memoryview(mmap.mmap(-1, 8192)).cast("q")
_called = {"good": 0, "poison": 0}


@task(executor=TaskExecutor.SPOOLER, strict=True)
def good(slot: int, seconds: float) -> None:
    """Work for so long, and prove it."""
    time.sleep(seconds)
    RUNS[slot] += 1
    TIMES[slot] = time.monotonic_ns()


@task(executor=TaskExecutor.SPOOLER, strict=True, max_crashes=DEATHS)
def poison(slot: int) -> None:
    """Kill the process that runs it, at once."""
    place = slot * DEATHS + get_current_task().crashes
    STARTS[place] += 1
    START_TIMES[place] = time.monotonic_ns()
    os.kill(os.getpid(), signal.SIGKILL)


def call_poison() -> int:
    """Queue one that kills; return its slot."""
    _called["poison"] += 1
    slot = _called["poison"] - 1
    poison(slot)
    return slot


def feed(seconds: float, work: float, backlog: int, poison_at: list[float]) -> list[int]:
    """Keep a backlog of good tasks for so long, with some that kill among them.

    Returns:
        The first slot of this stream, how many were called, how many of them ran in that time.
    """
    first, started = _called["good"], time.monotonic()
    wanted = sorted(poison_at)
    ran = first
    while (now := time.monotonic() - started) < seconds:
        while wanted and now >= wanted[0]:
            wanted.pop(0)
            call_poison()
        while ran < _called["good"] and RUNS[ran]:
            ran += 1
        waiting = sum(not n for n in RUNS[ran : _called["good"]])
        for _ in range(backlog - waiting):
            good(_called["good"], work)
            _called["good"] += 1
        time.sleep(work)
    end = time.monotonic_ns()
    times = TIMES[first : _called["good"]].tolist()
    return [first, _called["good"] - first, sum(0 < at <= end for at in times)]


def unfinished(first: int, number: int) -> int:
    """Return how many good tasks haven't run."""
    return sum(not count for count in RUNS[first : first + number])


def wrong(first: int, number: int) -> int:
    """Return how many good tasks didn't run exactly once."""
    return sum(count != 1 for count in RUNS[first : first + number])


def starts(slot: int) -> list[int]:
    """Return how often each delivery of one that kills started."""
    return STARTS[slot * DEATHS : (slot + 1) * DEATHS].tolist()


def gaps(slots: int) -> list[list[float]]:
    """Return, for the first of the ones that kill, ms from each death to the next start.

    And to the first good task that ran afterwards: from then on a spooler was free again.
    """
    alive = sorted(at for at in TIMES[: _called["good"]].tolist() if at)
    found = []
    for place in range(slots * DEATHS):
        died, last = START_TIMES[place], place % DEATHS == DEATHS - 1
        again = 0.0 if last else (START_TIMES[place + 1] - died) / 1e6
        after = next((at for at in alive if at > died), 0)
        found.append([again, (after - died) / 1e6 if after else 0.0])
    return found
