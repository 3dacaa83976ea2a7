"""Running a message: loaded ▸ called through the middleware ▸ classified. User code runs here only.

``run`` never raises what a task raised: it returns an ``Outcome``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from . import wire
from .errors import ArgumentsError, RetryTaskException, SignatureError, TaskCancelled, UnknownTask
from .middleware import Call
from .model import (
    ANEW,
    SPOOL_IGNORE,
    SPOOL_OK,
    SPOOL_RETRY,
    Attempt,
    Message,
    Outcome,
    Run,
    TaskExecutor,
    TaskSpec,
)

logger = logging.getLogger(__name__)
current: ContextVar[Run | None] = ContextVar("uwsgi_tasks_run", default=None)
depth: ContextVar[int] = ContextVar("uwsgi_tasks_depth", default=0)

_CODES = (SPOOL_OK, SPOOL_RETRY, SPOOL_IGNORE)
_OK = Outcome("ok")
_warned_of_none: set[str] = set()


def run(
    message: Message,
    executor: int,
    resolve: Callable[[str], TaskSpec],
    call: Call,
    spool: str = "",
) -> tuple[Run, Outcome]:
    """Run a message once.

    Args:
        message: What to run.
        executor: A number of ``TaskExecutor``: by which door it came.
        resolve: Gives the registered task of a name; imports its module where needed.
        call: The composed middleware, the task's function innermost.
        spool: Spool directory it came from, if any.

    Returns:
        The run as the task left it, and how it ended. The state ``"unknown"`` says that no such
        task is registered here (or its module can't be imported), ``"unloadable"`` that its
        arguments don't load.
    """
    this = Run(message, executor, time.time(), spool)
    token = current.set(this)
    level = depth.set(depth.get() + 1)
    try:
        failed = _load(this, resolve)
        if failed is not None:
            return this, failed
        if logger.isEnabledFor(logging.INFO):
            logger.info("Task %s started", message.task, extra=extra_of(this, "started"))
        return this, _call(this, call)
    finally:
        current.reset(token)
        depth.reset(level)


def _load(this: Run, resolve: Callable[[str], TaskSpec]) -> Outcome | None:
    message = this.message
    try:
        this.spec = spec = resolve(message.task)
    except UnknownTask as error:
        return Outcome("unknown", reason="unknown task", error=error)
    except BaseException as error:  # importing runs user code, which may raise anything
        return Outcome("unknown", reason="its module can't be imported", error=error)
    this.policy = message.policy or spec.policy
    left, before = message.executions_left, message.attempt - 1
    if left is None or left == ANEW:
        left = this.policy.left_after(before if left is None else 0)
    this.executions_left = left
    try:
        this.args, this.kwargs = wire.load_arguments(message)
    except BaseException as error:  # unpickling runs the arguments' own code
        return Outcome("unloadable", reason="its arguments don't load", error=error)
    return None


def _call(this: Run, call: Call) -> Outcome:
    try:
        result = call(this)
    except Exception as error:
        return _after_error(this, error)
    except BaseException as error:
        # sys.exit() in a task would end the spooler; in the caller's own process it is meant
        if this.executor == TaskExecutor.RUNTIME:
            raise
        return _after_error(this, error)
    return _after_return(this, result)


def _after_return(this: Run, result: Any) -> Outcome:
    spec, message = this.spec, this.message
    assert spec is not None
    reads_codes = spec.reads_codes if message.reads_codes is None else message.reads_codes
    if not reads_codes:
        return _OK if result is None else Outcome("ok", result)
    if result is None and spec.warns_on_none and spec.name not in _warned_of_none:
        _warned_of_none.add(spec.name)
        logger.warning(
            "Task %s has spooler_return=True and returned None, which counts as SPOOL_OK:"
            " return SPOOL_OK, SPOOL_RETRY or SPOOL_IGNORE",
            spec.name,
        )
    if type(result) is not int or result not in _CODES:
        return Outcome("ok", result)
    if result == SPOOL_OK:
        return Outcome("ok")
    if result == SPOOL_IGNORE:
        return Outcome("dead", reason="it returned SPOOL_IGNORE: not handled")
    if this.policy.executions is None and message.executions_left in (None, ANEW):
        # spooler_return without retry_count: again at uWSGI's next scan, as often as it says
        return Outcome(
            "retry", wait=this.policy.wait, next_scan=True, reason="it returned SPOOL_RETRY"
        )
    return _retry(this, "it returned SPOOL_RETRY")


def _after_error(this: Run, error: BaseException) -> Outcome:
    spec = this.spec
    assert spec is not None
    if isinstance(error, TaskCancelled):
        return Outcome("cancelled", reason="cancelled while it ran", error=error)
    if isinstance(error, RetryTaskException):
        return _retry(this, "it raised RetryTaskException", error, error.count, error.timeout)
    if isinstance(error, spec.retry_on) and not isinstance(error, spec.no_retry_on):
        return _retry(this, "it raised an exception", error)
    return Outcome("dead", reason="it raised an exception", error=error)


def _retry(
    this: Run,
    reason: str,
    error: BaseException | None = None,
    count: int | None = None,
    wait: float | None = None,
) -> Outcome:
    left = this.executions_left - 1 if count is None else count
    if left <= 0:
        if this.message.attempt > 1 or this.policy.executions is not None:
            reason += ", and no retry is left"
        return Outcome("dead", reason=reason, error=error)
    seconds = this.policy.wait_after(this.message.attempt) if wait is None else float(wait)
    return Outcome(
        "retry", wait=max(0.0, seconds), executions_left=left, reason=reason, error=error
    )


def buffer_of(this: Run) -> bytes:
    """Return the buffer of a run as bytes, as the task left it.

    Raises:
        ArgumentsError: The task put something into it that can't be serialised.
    """
    loaded = this.buffer_loaded
    if loaded is None:
        return this.message.buffer
    try:
        return wire.dump(loaded, this.message.serializer) if loaded else b""
    except ArgumentsError as error:
        raise ArgumentsError(
            f"The buffer of {this.message.task} can't be serialised: {error}"
        ) from error


def load_buffer(this: Run) -> dict[Any, Any]:
    """Return the buffer of a run; the same dict each time."""
    loaded = this.buffer_loaded
    if loaded is None:
        raw = this.message.buffer
        loaded = this.buffer_loaded = wire.load(raw, this.message.serializer) if raw else {}
    return loaded


def kept_result(this: Run, value: Any, signer: wire.Signer, most: int) -> tuple[bytes, str]:
    """Return the signed bytes of a result, or nothing and why it isn't kept.

    Args:
        this: The run.
        value: What its function returned.
        signer: Of the home.
        most: Bytes that it may have.
    """
    message = this.message
    try:
        kept = wire.pack_result(value, message.id, message.serializer, signer)
    except ArgumentsError as error:
        return b"", f"its result isn't kept: {message.serializer} can't hold it ({error})"[:500]
    if len(kept) > most:
        return b"", f"its result isn't kept: {len(kept)} bytes, max_result_bytes allows {most}"
    return kept, ""


def loaded_result(data: bytes, ident: str, signer: wire.Signer) -> Any:
    """Return a stored result; its signature is verified first.

    Raises:
        SignatureError: It was changed.
        ArgumentsError: It doesn't load here: a class of it is missing, or raises.
    """
    try:
        return wire.load_result(data, ident, signer)
    except SignatureError:
        raise
    except Exception as error:  # unpickling runs the result's own code
        raise ArgumentsError(
            f"The stored result of {ident} doesn't load here: {describe(error)}"
        ) from error


def shown_arguments(message: Message) -> str:
    """Return the arguments of a verified message as text; loading them runs their own code."""
    try:
        args, kwargs = wire.load_arguments(message)
        parts = [repr(value) for value in args]
        parts += [f"{name}={value!r}" for name, value in kwargs.items()]
        return f"({', '.join(parts)})"
    except BaseException as error:
        return f"they can't be shown: {describe(error)}"


def extra_of(this: Run, action: str) -> dict[str, Any]:
    """Return what log lines about a run carry as ``extra``."""
    message = this.message
    return {
        "action": action,
        "task": message.task,
        "task_id": message.id,
        "attempt": message.attempt,
    }


def evidence(run: Run, outcome: Outcome) -> Attempt:
    """Return what is kept of a run that is over."""
    error = describe(outcome.error) or outcome.reason
    return Attempt(run.message.attempt, run.started_at, time.time(), os.getpid(), error[:500])


def describe(error: BaseException | None) -> str:
    """Return type and text of an exception, one whose text can't be had included."""
    if error is None:
        return ""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def log_end(run: Run, outcome: Outcome) -> None:
    """Log how a run ended; arguments are never shown."""
    if outcome.state == "ok" and not logger.isEnabledFor(logging.INFO):
        return
    message, extra = run.message, extra_of(run, outcome.state)
    took = time.time() - run.started_at
    if outcome.state == "ok":
        logger.info("Task %s finished in %.3f s", message.task, took, extra=extra)
    elif outcome.state == "cancelled":
        logger.warning("Task %s %s was cancelled", message.task, message.id, extra=extra)
    elif outcome.state in ("retry", "unknown"):
        logger.warning(
            "Task %s %s: attempt %d: %s (%s)",
            message.task,
            message.id,
            message.attempt,
            outcome.reason,
            describe(outcome.error) or f"again in {outcome.wait:g} s",
            extra=extra,
        )
    else:
        logger.error(
            "Task %s %s is dead after attempt %d: %s",
            message.task,
            message.id,
            message.attempt,
            outcome.reason,
            exc_info=outcome.error,
            extra=extra,
        )
