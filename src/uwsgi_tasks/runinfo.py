"""What is shown of one call of a task, made from what is stored of it."""

from __future__ import annotations

from typing import NamedTuple

from . import finding, inflight, journal
from .board import Progress
from .letters import DeadLetter
from .model import EXECUTOR_NAMES, Message, TaskExecutor, is_id
from .site import Site


class AttemptInfo(NamedTuple):
    """One attempt of a run that is over.

    Attributes:
        number: From 1.
        started_at: Epoch seconds.
        finished_at: Epoch seconds.
        pid: Of its process.
        error: What ended it, in a line; empty when it succeeded.
    """

    number: int
    started_at: float
    finished_at: float
    pid: int
    error: str


class ProgressInfo(NamedTuple):
    """How far a run is.

    Attributes:
        done: What it gave last.
        total: Of how much; ``None`` where it isn't known.
        message: Its own words.
        updated_at: Epoch seconds at which it told so.
        rate: Per second, since the run told the first time; 0 where that can't be told yet.
        left_s: Seconds that it will still take at that rate; ``None`` where that can't be told.
    """

    done: float
    total: float | None
    message: str
    updated_at: float
    rate: float
    left_s: float | None


class RunInfo(NamedTuple):
    """All that is known of one call of a task.

    Attributes:
        id: The message's id.
        task: Name of the task; empty where it isn't known any more.
        state: One of ``STATES``.
        queue: Label of its queue.
        executor: ``"spooler"`` or ``"mule"``.
        priority: Smaller runs sooner; ``None``: none asked for.
        created_at: Epoch seconds of the call.
        due_at: Epoch seconds before which it doesn't run; ``None``: at once.
        started_at: Epoch seconds of its present or last attempt; ``None``: none yet.
        finished_at: Epoch seconds of its final state; ``None``: it has none yet.
        attempt: Number of its present, last or next attempt.
        crashes: Deaths of its process.
        interruptions: Stops and reloads of the server while it ran.
        pid: Of the process of its present or last attempt; ``None``: none yet.
        reason: Why it is in that state, in a few words; empty where the state says it.
        error: Type and text of the last exception.
        traceback: Of the last exception.
        arguments: Its call, as text: ``('hi', to='me')``; ``None`` where arguments aren't shown, or
            aren't kept any more.
        has_result: A result is stored; ``uwsgi_tasks.get(id).result()`` gives it.
        progress: How far it is, or was.
        logs: The last lines that it logged, the oldest first.
        attempts: Its attempts that are over, the oldest first.
        spool: The spool directory that it lies in, or will enter.
    """

    id: str
    task: str
    state: str
    queue: str = "default"
    executor: str = "spooler"
    priority: float | None = None
    created_at: float = 0.0
    due_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 1
    crashes: int = 0
    interruptions: int = 0
    pid: int | None = None
    reason: str = ""
    error: str = ""
    traceback: str = ""
    arguments: str | None = None
    has_result: bool = False
    progress: ProgressInfo | None = None
    logs: tuple[str, ...] = ()
    attempts: tuple[AttemptInfo, ...] = ()
    spool: str = ""


def of_message(
    message: Message, state: str, *, spool: str = "", executor: int = TaskExecutor.SPOOLER
) -> RunInfo:
    """Return what a message that hasn't ended tells."""
    last = message.attempts[-1] if message.attempts else None
    return RunInfo(
        message.id,
        message.task,
        state,
        message.queue,
        EXECUTOR_NAMES[executor],
        message.priority,
        message.created_at,
        message.at or None,
        last.started_at if last else None,
        None,
        message.attempt,
        message.crashes,
        message.interruptions,
        last.pid if last else None,
        error=last.error if last else "",
        attempts=tuple(AttemptInfo(*attempt) for attempt in message.attempts),
        spool=spool,
    )


def of_hand(site: Site, record: inflight.Record, message: Message | None) -> RunInfo:
    """Return what is known of a message that a process has in hand."""
    executor = TaskExecutor.MULE if record.kind == inflight.MULE else TaskExecutor.SPOOLER
    if message is None:
        info = RunInfo(record.id, "", "running", created_at=called_at(record.id))
    else:
        info = of_message(message, "running", executor=executor)
    told = site.board.progress(record.place, record.id)
    return info._replace(
        executor=EXECUTOR_NAMES[executor],
        started_at=record.started_at,
        pid=record.pid,
        progress=None if told is None else of_progress(told),
    )


def of_record(record: journal.Record) -> RunInfo:
    """Return what the history tells."""
    kept = finding.details(record)
    told = kept.get("progress")
    return RunInfo(
        record.id,
        record.task,
        journal.FINAL_STATES[record.state],
        record.queue,
        EXECUTOR_NAMES.get(record.executor, "spooler"),
        record.priority,
        record.created_at,
        record.due_at or None,
        record.started_at or None,
        record.finished_at,
        record.attempt,
        record.crashes,
        record.interruptions,
        record.pid or None,
        record.reason,
        record.error,
        str(kept.get("traceback", "")),
        None,
        bool(record.result),
        of_progress(Progress(*told)) if told else None,
        tuple(kept.get("logs", ())),
        tuple(AttemptInfo(*attempt) for attempt in kept.get("attempts", ())),
    )


def of_letter(letter: DeadLetter, state: str) -> RunInfo:
    """Return what a dead letter tells."""
    attempts = tuple(AttemptInfo(*attempt.values()) for attempt in letter.attempts)
    last = attempts[-1] if attempts else None
    return RunInfo(
        letter.id,
        letter.task,
        state,
        letter.queue,
        created_at=called_at(letter.id) if is_id(letter.id) else letter.dead_at,
        started_at=last.started_at if last else None,
        finished_at=letter.dead_at,
        attempt=last.number if last else 1,
        pid=last.pid if last else None,
        reason=letter.reason,
        error=letter.error,
        traceback=letter.traceback,
        attempts=attempts,
        spool=letter.spool,
    )


def of_progress(told: Progress) -> ProgressInfo:
    """Return how far a run is, with its rate."""
    seconds = told.updated_at - told.first_at
    rate = (told.done - told.first_done) / seconds if seconds > 0 else 0.0
    left = None
    if told.total is not None and rate > 0:
        left = max(0.0, (told.total - told.done) / rate)
    return ProgressInfo(told.done, told.total, told.message, told.updated_at, rate, left)


def called_at(ident: str) -> float:
    """Return when a call was made, as its id tells."""
    return int(ident[:19]) / 1e9
