"""The application of the benchmark on uwsgi_tasks."""

import contextlib
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_app
from bench_app import *  # noqa: F403  the driver evaluates in this module
from bench_app import COUNTS, arguments, bare_spooler, publish

from uwsgi_tasks import TaskExecutor, engine, handlers, task, wire
from uwsgi_tasks.inflight import Inflight
from uwsgi_tasks.model import Message, new_id
from uwsgi_tasks.recycling import Recycler

on_spooler = task(bench_app.noop, executor=TaskExecutor.SPOOLER, name="app.noop", strict=True)
on_mule = task(bench_app.noop, executor=TaskExecutor.MULE, name="app.mule_noop", strict=True)

on_durable = {
    durability: task(bench_app.noop, name=f"app.{durability}_noop", durability=durability)
    for durability in ("os", "disk", "memory")
}


def durable(durability: str) -> Any:
    """Return what queues a call as durably as that."""
    return lambda call: on_durable[durability](*call)


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
    """Publish ns of CPU per run, in this spooler, chunk by chunk: each of VARIANTS, then bare.

    A message that ran isn't run again, so that each run has one of its own.
    """
    handle = on_spooler(*arguments(slot))  # its file runs once more after this task
    path = next(Path(spool).glob(f"uwsgi_spoolfile_on_{handle.id}*"))
    signer = engine.current().require_site().signer
    message = wire.unpack(wire.envelope_of_file(path.read_bytes()), signer)
    payload = pickle.dumps((arguments(bare_slot), {}), 5)
    name = path.name.encode()
    bare = [{b"task": b"app.noop", "spooler_task_name": name, "body": payload}] * size
    samples = []
    for _ in range(chunks):
        for replaced in VARIANTS:
            files = [_spool_file(message._replace(id=new_id()), signer) for _ in range(size)]
            with _without(replaced):
                samples.append(_cpu(handlers.on_spool, files))
        samples.append(_cpu(bare_spooler, bare))
    runs = chunks * size
    if COUNTS[slot] != len(VARIANTS) * runs or COUNTS[bare_slot] != runs:
        raise AssertionError(f"{COUNTS[slot]} and {COUNTS[bare_slot]} of {runs} ran")
    publish(samples)


Replaced = tuple[tuple[type, str, Any], ...]
RECORDS: Replaced = ((Inflight, "begin", None), (Inflight, "end", None), (Inflight, "knows", False))
PUT_BACK: Replaced = ((Recycler, "after_task", None), (Inflight, "is_open", True))
VARIANTS: tuple[Replaced, ...] = ((), RECORDS, PUT_BACK)
"""What is replaced by a function that does nothing: nothing, the records, the putting back."""


@contextlib.contextmanager
def _without(replaced: Replaced) -> Iterator[None]:
    real = [(kind, name, getattr(kind, name)) for kind, name, _ in replaced]
    for kind, name, answer in replaced:
        setattr(kind, name, lambda *_, answer=answer: answer)
    try:
        yield
    finally:
        for kind, name, method in real:
            setattr(kind, name, method)


def _spool_file(message: Message, signer: wire.Signer) -> dict[Any, Any]:
    """Return what uWSGI hands over for the file of a message."""
    name = f"uwsgi_spoolfile_on_{message.id}.{message.delivery}".encode()
    return {wire.MARK: b"1", "spooler_task_name": name, "body": wire.pack(message, signer)}


def _cpu(handler: Any, files: list[dict[Any, Any]]) -> int:
    started = time.thread_time_ns()
    for env in files:
        handler(env)
    return (time.thread_time_ns() - started) // len(files)
