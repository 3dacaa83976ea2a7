"""The demo's own diary: one JSON line for every call and every run.

The tasks write into it themselves, through `recorded`. Each line is one write to a file opened
for appending, so that spoolers, mules and web workers can share it without a lock.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uwsgi_tasks import get_current_task

STATE = Path(os.environ.get("DEMO_STATE", ".demo"))
DIARY = STATE / "runs.jsonl"


def write(event: str, **fields: Any) -> None:
    """Append one line to the diary."""
    line = json.dumps({"event": event, "time": time.time(), **fields}) + "\n"
    descriptor = os.open(DIARY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def call(story: str, function: Callable[..., Any], *args: Any, due: float | None = None) -> Any:
    """Call a task and note that it was called.

    Args:
        story: The story it belongs to.
        function: The task, with options or without, or the running task's object.
        args: Its arguments.
        due: Epoch seconds before which it won't run, for the page to show.

    Returns:
        The handle.
    """
    moment = time.time()
    handle = function(*args)
    write(
        "called",
        called=moment,
        story=story,
        task=plain_name(function),
        id=str(handle.id),
        executor=word(handle.executor),
        due=due,
    )
    return handle


def recorded(story: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function note each of its runs under the name of a story.

    It goes below `@task`, `@timer` or `@cron`. The text a function returns is kept as its note.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            run = os.urandom(6).hex()
            write(
                "started",
                run=run,
                story=story,
                task=function.__name__,
                pid=os.getpid(),
                process=process(),
                **about_this_run(story),
            )
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                write("finished", run=run, outcome=verdict(), error=describe(error))
                raise
            note = result if isinstance(result, str) else None
            write("finished", run=run, outcome="ok", note=note)
            return result

        return noted

    return decorate


def about_this_run(story: str) -> dict[str, Any]:
    """Tell which task this is, as the library sees it."""
    current = get_current_task()
    if current is None:
        return {"id": f"{story}-{time.time_ns()}", "attempt": 1, "executor": "runtime"}
    return {
        "id": str(current.id),
        "attempt": current.attempt,
        "executor": word(current.executor),
    }


def verdict() -> str:
    """Say what will follow a failed attempt: another one, or the dead letters."""
    current = get_current_task()
    return "retry" if current is not None and current.retry_count > 1 else "failed"


def describe(error: Exception) -> str:
    """Name an error and its cause in one line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def process() -> str:
    """Name the kind of uWSGI process this code runs in."""
    try:
        import uwsgi  # exists inside uWSGI only
    except ImportError:
        return "python"
    if uwsgi.i_am_the_spooler():
        return "spooler"
    if uwsgi.mule_id():
        return f"mule {uwsgi.mule_id()}"
    return f"worker {uwsgi.worker_id()}"


def word(executor: Any) -> str:
    """Write an executor as one small word."""
    return str(getattr(executor, "name", executor)).lower()


def entries() -> Iterator[dict[str, Any]]:
    """Read the diary, line by line; a line that is still being written is left for later."""
    try:
        text = DIARY.read_text("utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def runs() -> list[dict[str, Any]]:
    """Put calls and runs together: one row per attempt, and one per call that still waits.

    A row's `called` is the moment of the call, or of the end of the attempt before this one.
    """
    rows: list[dict[str, Any]] = []
    open_calls: dict[str, list[dict[str, Any]]] = {}
    open_runs: dict[str, dict[str, Any]] = {}
    ended: dict[str, float] = {}
    for entry in sorted(entries(), key=moment_of):
        ident = entry.get("id", "")
        if entry["event"] == "called":
            row = {"key": f"call-{len(rows)}", **entry}
            rows.append(row)
            open_calls.setdefault(ident, []).append(row)
        elif entry["event"] == "started":
            if open_calls.get(ident):
                row = open_calls[ident].pop(0)
            else:
                row = {"key": entry["run"], "called": ended.get(ident), "due": None}
                rows.append(row)
            row.update(entry, started=entry["time"])
            open_runs[entry["run"]] = row
        elif entry["run"] in open_runs:
            row = open_runs.pop(entry["run"])
            row.update(entry, finished=entry["time"])
            ended[row["id"]] = entry["time"]
    return sorted(rows, key=lambda row: row.get("started") or row["called"])


def moment_of(entry: dict[str, Any]) -> float:
    """Return when an entry became true: a call is written down after it was made."""
    moment: float = entry.get("called") or entry["time"]
    return moment


def plain_name(function: Any) -> str:
    """Return the last part of a task's name."""
    return str(getattr(function, "name", "") or function._task.name).rpartition(".")[2]
