"""The nouns: a message, an attempt of it, a run, and the outcome of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from .retry import RetryPolicy

SPOOL_OK = -2
SPOOL_RETRY = -1
SPOOL_IGNORE = 0

DEFAULT_PRIORITY = 100.0
DEFAULT_QUEUE = "default"
ANEW = -1
"""``executions_left`` of a message that has all executions of its policy before it again."""


class TaskExecutor(IntEnum):
    """Where a task runs: the numbers that release 0.7.3 gave them."""

    AUTO = 1
    SPOOLER = 2
    MULE = 3
    RUNTIME = 4


EXECUTOR_NAMES: dict[int, str] = {
    TaskExecutor.AUTO: "auto",
    TaskExecutor.MULE: "mule",
    TaskExecutor.SPOOLER: "spooler",
    TaskExecutor.RUNTIME: "runtime",
}


class Attempt(NamedTuple):
    """One attempt of a message that is over: its evidence."""

    number: int
    started_at: float
    finished_at: float
    pid: int
    error: str


class Limits(NamedTuple):
    """How long one run may take.

    Attributes:
        timeout: Seconds after which its process is killed, 0 for never.
        soft_timeout: Seconds after which ``SoftTimeout`` is raised in it, 0 for never.
    """

    timeout: float = 0.0
    soft_timeout: float = 0.0


UNLIMITED = Limits()


class Message(NamedTuple):
    """One call of a task, as it travels. Frozen: a change is a new value.

    Attributes:
        id: 19 digits of nanoseconds, a dash, 16 hex digits; sorts by time.
        task: Registered name of the task.
        payload: The arguments, serialised; opaque until the run loads them.
        serializer: ``"pickle"`` or ``"json"``.
        created_at: Epoch seconds of the call.
        chain: Id of the first message of the chain of re-calls it belongs to.
        at: Epoch seconds before which it doesn't run, 0 for at once.
        priority: Smaller runs sooner; ``None`` is none asked for.
        queue: Label of its queue.
        attempt: Number of its next attempt, from 1; a crash or an interruption doesn't count.
        delivery: How often it was handed to an executor, from 1; it only ever grows.
        crashes: Deaths of the process that had it in hand.
        interruptions: Stops and reloads of the server while it was in hand.
        expires_at: Epoch seconds from which on it isn't started any more, 0 for never.
        on_disk: Each of its states is flushed to the disk before it counts.
        limits: The call's own time limits; ``None``: the registered task's.
        store_result: The call's own ``store_result``; ``None``: the registered task's.
        executions_left: Executions still allowed, this one included; ``None``: by the policy and
            the attempt; ``ANEW``: all of the policy.
        policy: The call's own retry policy; ``None``: the registered task's.
        reads_codes: The call's own ``spooler_return``; ``None``: the registered task's.
        working_dir: Directory to run in; empty leaves it alone.
        working_dir_asked: The directory was asked for, not just the caller's.
        buffer: The ``buffer`` of the chain, serialised, or empty.
        stored: It came from the waiting place, which has to agree before it runs.
        attempts: The attempts that are over, the newest last, at most 20.
        first_unknown_at: Epoch seconds at which no consumer knew its task; 0 for never.
    """

    id: str
    task: str
    payload: bytes
    serializer: str = "pickle"
    created_at: float = 0.0
    chain: str = ""
    at: float = 0.0
    priority: float | None = None
    queue: str = DEFAULT_QUEUE
    attempt: int = 1
    executions_left: int | None = None
    policy: RetryPolicy | None = None
    reads_codes: bool | None = None
    working_dir: str = ""
    working_dir_asked: bool = False
    buffer: bytes = b""
    stored: bool = False
    attempts: tuple[Attempt, ...] = ()
    first_unknown_at: float = 0.0
    delivery: int = 1
    crashes: int = 0
    interruptions: int = 0
    expires_at: float = 0.0
    on_disk: bool = False
    limits: Limits | None = None
    store_result: bool | None = None


def new_id() -> str:
    """Return a new message id."""
    return f"{time.time_ns():019d}-{os.urandom(8).hex()}"


def is_id(text: str) -> bool:
    """Tell whether the text has the form of a message id."""
    digits, dash, tail = text.partition("-")
    return bool(dash) and len(digits) == 19 and digits.isdigit() and len(tail) == 16 and _hex(tail)


def _hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


class ScheduleOptions(NamedTuple):
    """What a schedule says beside its rule and its target.

    Attributes:
        missed: ``"skip"``, ``"once"`` or ``"all"``: what follows from moments that were missed.
        overlap: ``"skip"``, ``"queue"`` or ``"allow"``: what follows where the last firing isn't
            over.
        jitter: Up to so many seconds, chosen at random, are added to each moment.
        start: Epoch seconds before which it isn't due, 0 for none.
        end: Epoch seconds after which it isn't due, 0 for none.
        expires: Seconds from a firing after which it isn't started any more, 0 for never.
        lazy: A call starts it, for the life of that server.
        executor: A number of ``TaskExecutor``, where no target is named.
        spooler: See ``Placement``.
        mule: See ``Placement``.
        strict: See ``Placement``.
        durability: See ``Placement``.
    """

    missed: str = "skip"
    overlap: str = "skip"
    jitter: float = 0.0
    start: float = 0.0
    end: float = 0.0
    expires: float = 0.0
    lazy: bool = False
    executor: int = TaskExecutor.AUTO
    spooler: str = ""
    mule: int | str | None = None
    strict: bool | None = None
    durability: str | None = None


DECLARED, ADDED = "declared", "added"


class Schedule(NamedTuple):
    """A row of the schedules: a rule, what it submits and where, and when it is next due.

    Attributes:
        name: Its name, which no other schedule has.
        task: Registered name of the task.
        origin: ``DECLARED`` by a decorator, or ``ADDED`` at run time.
        module: The module that declared it.
        incarnation: The start of the server that declared it last.
        rule: What ``schedule.Rule.dump`` gave, as JSON.
        target: Where it runs; empty: by its task's options.
        number: The signal number that its function gets.
        envelope: A signed message, the template of those that it submits.
        options: A ``ScheduleOptions``, as JSON.
        iterations: How often it still fires; ``None`` for ever.
        active: It fires.
        paused: It doesn't, until it is resumed.
        moment: Epoch seconds of the next moment by the rule.
        next_at: Epoch seconds of the next firing: the moment and its jitter.
        last_at: Epoch seconds of the last firing, 0 for none.
        last_id: Id of the last message that it submitted.
        asked_id: Id of the message of a firing that somebody asked for.
        digest: Tells one definition from another.
        fired: How often it fired.
        missed: How many moments were missed.
        skipped: How many moments were skipped because the last firing wasn't over.
    """

    name: str
    task: str
    origin: str
    module: str
    incarnation: str
    rule: str
    target: str
    number: int
    envelope: bytes
    options: str
    iterations: int | None
    active: bool
    paused: bool
    moment: float | None
    next_at: float | None
    last_at: float = 0.0
    last_id: str = ""
    asked_id: str = ""
    digest: str = ""
    fired: int = 0
    missed: int = 0
    skipped: int = 0


class TaskSpec(NamedTuple):
    """What the engine knows of a registered task."""

    name: str
    function: Callable[..., Any]
    policy: RetryPolicy = RetryPolicy()
    reads_codes: bool = False
    warns_on_none: bool = False
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()
    max_attempts: int | None = None
    limits: Limits = UNLIMITED
    max_crashes: int | None = None
    store_result: bool | None = None


class Placement(NamedTuple):
    """Where a call asks to be run.

    Attributes:
        executor: A number of ``TaskExecutor``.
        spooler: Path of the spooler (or ``uwsgi://`` address); empty for the default one.
        mule: Number of a mule, or the name of a farm; ``None`` for any mule.
        strict: No fall-back to another executor; ``None``: by the setting.
        durability: ``"os"``, ``"disk"`` or ``"memory"``; ``None``: by the setting.
    """

    executor: int = TaskExecutor.AUTO
    spooler: str = ""
    mule: int | str | None = None
    strict: bool | None = None
    durability: str | None = None


class Receipt(NamedTuple):
    """What an executor gives back for a message that it took.

    Attributes:
        executor: Where it went.
        spool: Directory of the spool it lies in or will enter, if any.
        outcome: The outcome, where the task ran in the call.
        error: The exception that ended it, where the task ran in the call.
    """

    executor: TaskExecutor
    spool: str = ""
    outcome: Outcome | None = None
    error: BaseException | None = None


class Outcome(NamedTuple):
    """How a run ended: one value for the four ways in which a task can speak.

    Attributes:
        state: ``"ok"``, ``"retry"``, ``"dead"`` or ``"cancelled"``; ``"unknown"`` or
            ``"unloadable"`` when the function couldn't even be called.
        result: What the function returned, when ok.
        wait: Seconds until the next attempt, when it is a retry.
        executions_left: Executions allowed after this one, when it is a retry; ``None``: by the
            policy.
        next_scan: The retry wants no wake-up: it is run at uWSGI's next scan.
        reason: One word group for people, when it isn't ok.
        error: The exception, when one ended the run.
    """

    state: str
    result: Any = None
    wait: float = 0.0
    executions_left: int | None = None
    next_scan: bool = False
    reason: str = ""
    error: BaseException | None = None


_ONCE = RetryPolicy()


class Run:
    """One execution of a message: what the running task can see and change.

    Life: made by the runner, *loaded* (``args``, ``kwargs``), put into the context variable while
    the task's function runs, then read once more when the outcome is settled.
    """

    __slots__ = (
        "args",
        "at",
        "buffer_loaded",
        "checkpointed",
        "executions_left",
        "executor",
        "kwargs",
        "message",
        "policy",
        "spec",
        "spool",
        "started_at",
        "teller",
        "view",
    )

    def __init__(self, message: Message, executor: int, started_at: float, spool: str = "") -> None:
        self.message = message
        self.executor = executor
        self.spool = spool
        self.started_at = started_at
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.spec: TaskSpec | None = None
        self.policy = _ONCE
        self.executions_left = 1
        self.at: Any = None
        self.buffer_loaded: dict[Any, Any] | None = None
        self.view: Any = None
        self.checkpointed = False
        self.teller: Any = None
