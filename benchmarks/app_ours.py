"""The application of the benchmark on uwsgi_tasks."""

import pickle
import time
from pathlib import Path
from typing import Any

import bench_app
from bench_app import *  # noqa: F403  the driver evaluates in this module
from bench_app import COUNTS, arguments, bare_spooler, publish

from uwsgi_tasks import TaskExecutor, handlers, task, wire

on_spooler = task(bench_app.noop, executor=TaskExecutor.SPOOLER, name="app.noop", strict=True)
on_mule = task(bench_app.noop, executor=TaskExecutor.MULE, name="app.mule_noop", strict=True)


def spool(call: tuple[Any, ...]) -> None:
    """Queue a call in the spool."""
    on_spooler(*call)


def mule(call: tuple[Any, ...]) -> None:
    """Queue a call for the mule."""
    on_mule(*call)


def items(first: int, number: int) -> list[tuple[Any, ...]]:
    """Return what the calls of these slots get: their arguments."""
    return [arguments(slot) for slot in range(first, first + number)]


@task(executor=TaskExecutor.SPOOLER)
def measure_handler(spool: str, slot: int, bare_slot: int, chunks: int, size: int) -> None:
    """Publish ns of CPU per run, in this spooler: our handler and a bare one, chunk by chunk."""
    handle = on_spooler(*arguments(slot))  # its file runs once more after this task
    path = next(Path(spool).glob(f"uwsgi_spoolfile_on_{handle.id}*"))
    name = path.name.encode()
    content = wire.envelope_of_file(path.read_bytes())
    ours = {wire.MARK: b"1", "spooler_task_name": name, "body": content}
    payload = pickle.dumps((arguments(bare_slot), {}), 5)
    bare = {b"task": b"app.noop", "spooler_task_name": name, "body": payload}
    samples = []
    for _ in range(chunks):
        samples.append(_cpu(handlers.on_spool, ours, size))
        samples.append(_cpu(bare_spooler, bare, size))
    runs = chunks * size
    if COUNTS[slot] != runs or COUNTS[bare_slot] != runs:
        raise AssertionError(f"{COUNTS[slot]} and {COUNTS[bare_slot]} of {runs} ran")
    publish(samples)


def _cpu(handler: Any, env: dict[Any, Any], size: int) -> int:
    started = time.thread_time_ns()
    for _ in range(size):
        handler(env)
    return (time.thread_time_ns() - started) // size
