"""What both applications of the benchmark share; imported inside uWSGI, before the fork.

Each call has a slot in memory that all processes of the server see: how often it ran, and when.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import time
from typing import Any

import uwsgi

SLOTS = 1 << 17
COUNTS = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("I")
TIMES = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("q")
PUBLISHED = memoryview(mmap.mmap(-1, 8 * 1024)).cast("q")


def noop(slot: int, recipient: str, subject: str) -> None:
    """Do the work: as good as none, and the proof that it was done."""
    COUNTS[slot] += 1
    TIMES[slot] = time.monotonic_ns()


def arguments(slot: int) -> tuple[Any, ...]:
    """Return the arguments of a call: small, as they mostly are."""
    return (slot, "user@example.com", "Welcome!")


TASKS = {b"app.noop": noop}


def bare_spooler(env: dict[Any, Any]) -> int:
    """Run a spool file with the least that does it: find, unpickle, call."""
    args, kwargs = pickle.loads(env["body"])
    TASKS[env[b"task"]](*args, **kwargs)
    return uwsgi.SPOOL_OK


def bare_mule(data: bytes) -> None:
    """Run a mule's message with the least that does it."""
    name, _, payload = data.partition(b"\0")
    args, kwargs = pickle.loads(payload)
    TASKS[name](*args, **kwargs)


def timed(call: Any, items: list[Any]) -> list[int]:
    """Return the nanoseconds of each call."""
    clock, took = time.perf_counter_ns, []
    for item in items:
        started = clock()
        call(item)
        took.append(clock() - started)
    return took


def latencies(call: Any, items: list[Any], first: int) -> list[int]:
    """Return the nanoseconds from each call to its run, the consumer idle before."""
    took = []
    for slot, item in enumerate(items, first):
        time.sleep(0.006)
        started = time.monotonic_ns()
        call(item)
        wait(slot, 1, poll=0.0002)
        took.append(TIMES[slot] - started)
    return took


def wait(first: int, number: int, poll: float = 0.005, timeout: float = 60.0) -> None:
    """Wait until the slots have run; a spooler that overslept a task is woken, as a scan would."""
    started = time.monotonic()
    nudge_at, deadline = started + 1.0, started + timeout
    while not all(COUNTS[first : first + number]):
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{number - done(first, number)} of {number} didn't run")
        if now > nudge_at:
            os.kill(uwsgi.spooler_pid(), signal.SIGUSR1)
            nudge_at = now + 0.2
        time.sleep(poll)


def done(first: int, number: int) -> int:
    """Return how many of the slots have run."""
    return sum(count > 0 for count in COUNTS[first : first + number])


def span(first: int, number: int) -> int:
    """Return the nanoseconds between the first and the last run of the slots."""
    times = TIMES[first : first + number].tolist()
    return max(times) - min(times)


def wrong(first: int, number: int, times: int = 1) -> int:
    """Return how many of the slots didn't run exactly that often."""
    return sum(count != times for count in COUNTS[first : first + number])


def publish(samples: list[int]) -> None:
    """Let the worker see samples that another process took."""
    for position, sample in enumerate(samples, 1):
        PUBLISHED[position] = sample
    PUBLISHED[0] = len(samples)


def published(timeout: float = 60.0) -> list[int]:
    """Wait for samples, and take them."""
    deadline = time.monotonic() + timeout
    while not PUBLISHED[0]:
        if time.monotonic() > deadline:
            raise TimeoutError("no samples")
        time.sleep(0.01)
    samples = PUBLISHED[1 : 1 + PUBLISHED[0]].tolist()
    PUBLISHED[0] = 0
    return samples
