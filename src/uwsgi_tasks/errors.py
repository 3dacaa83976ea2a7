"""Every error of the library, in one tree.

```
UwsgiTasksError
├── ConfigError          (ValueError)    a setting is wrong
├── OptionError          (TypeError)     an option of a task is unknown or of a wrong type
├── OptionValueError     (ValueError)    an option of a task has a value that can't be meant
├── ArgumentsError       (TypeError)     a task's arguments can't be serialised or loaded
├── NotAvailable         (RuntimeError)  the executor or the information asked for isn't there
│   └── HomeError        (OSError)       the home directory can't be used
├── QueueFull            (RuntimeError)  the executor is there but took nothing
├── MessageTooBig        (ValueError)    the message doesn't fit the executor
├── WireError            (ValueError)    bytes that are no message of ours
│   └── SignatureError                   a message that nobody with our key wrote
├── UnknownTask          (LookupError)   no task of that name is registered
├── TaskFailed           (RuntimeError)  the task whose result is asked for ended without one
└── ResultTimeout        (TimeoutError)  the result that is waited for isn't there yet
RetryTaskException       (Exception)     raised by a task that wants to run again
SoftTimeout              (TimeoutError)  raised in a task that ran as long as its soft_timeout
TaskCancelled            (BaseException) raised in a task that somebody cancels
```

Each class is also the standard kind that callers already catch.
"""

from __future__ import annotations

from datetime import timedelta

__all__ = [
    "ArgumentsError",
    "ConfigError",
    "HomeError",
    "MessageTooBig",
    "NotAvailable",
    "OptionError",
    "OptionValueError",
    "QueueFull",
    "ResultTimeout",
    "RetryTaskException",
    "SignatureError",
    "SoftTimeout",
    "TaskCancelled",
    "TaskFailed",
    "UnknownTask",
    "UwsgiTasksError",
    "WireError",
]


class UwsgiTasksError(Exception):
    """The root of the library's errors."""


class ConfigError(UwsgiTasksError, ValueError):
    """A setting is wrong."""


class OptionError(UwsgiTasksError, TypeError):
    """An option of a task is unknown or of a wrong type."""


class OptionValueError(UwsgiTasksError, ValueError):
    """An option of a task has a value that can't be meant."""


class ArgumentsError(UwsgiTasksError, TypeError):
    """A task's arguments can't be serialised or loaded."""


class NotAvailable(UwsgiTasksError, RuntimeError):
    """The executor or the information asked for isn't there."""


class HomeError(NotAvailable, OSError):
    """The home directory can't be used."""

    def __str__(self) -> str:
        return str(self.args[-1]) if self.args else ""


class QueueFull(UwsgiTasksError, RuntimeError):
    """The executor is there but its queue took nothing."""


class MessageTooBig(UwsgiTasksError, ValueError):
    """The message doesn't fit the executor."""


class WireError(UwsgiTasksError, ValueError):
    """Bytes that are no message of ours."""


class SignatureError(WireError):
    """A message that nobody with our key wrote."""


class UnknownTask(UwsgiTasksError, LookupError):
    """No task of that name is registered."""


class TaskFailed(UwsgiTasksError, RuntimeError):
    """The task whose result is asked for ended without one.

    Attributes:
        id: The message's id.
        task: Name of the task, where it is known.
        state: ``"dead"``, ``"expired"`` or ``"cancelled"``.
        reason: Why, in a few words.
        error: Type and text of the exception that ended it, if one did.
        remote_traceback: Of that exception, in the process that ran the task.
    """

    def __init__(
        self,
        ident: str,
        state: str,
        task: str = "",
        reason: str = "",
        error: str = "",
        remote_traceback: str = "",
    ) -> None:
        self.id, self.state, self.task = ident, state, task
        self.reason, self.error, self.remote_traceback = reason, error, remote_traceback
        super().__init__(ident, state, task, reason, error, remote_traceback)

    def __str__(self) -> str:
        name = f"Task {self.task} {self.id}" if self.task else f"Task {self.id}"
        why = f": {self.reason}" if self.reason and self.reason != self.state else ""
        what = f" ({self.error})" if self.error else ""
        trace = f"\n\n{self.remote_traceback}" if self.remote_traceback else ""
        return f"{name} is {self.state}{why}{what}{trace}"


class ResultTimeout(UwsgiTasksError, TimeoutError):
    """The result that is waited for isn't there yet; the task goes on."""


class TaskCancelled(BaseException):
    """Raised in a task that somebody cancels while it runs.

    It is no ``Exception``, so that a loop which survives failures ends all the same. The task may
    catch it to clean up; if it returns then, it is ok.
    """


class SoftTimeout(TimeoutError):
    """Raised in a task when it ran as long as its ``soft_timeout``.

    The task may catch it to clean up; what it lets through is a failure like any other.
    """


class RetryTaskException(Exception):
    """Raise inside a task to run it again.

    Args:
        count: How many executions are still allowed after this one. It replaces what
            ``retry_count`` left, so a constant count retries until ``max_attempts``.
            ``None`` leaves what is left.
        timeout: Seconds (int, float or ``timedelta``) to wait before the next attempt,
            instead of the task's own wait; 0 is at once.

    Example:
        >>> raise RetryTaskException(timeout=10)
        Traceback (most recent call last):
        ...
        uwsgi_tasks.errors.RetryTaskException: retry
    """

    def __init__(self, count: int | None = None, timeout: float | timedelta | None = None) -> None:
        super().__init__("retry")
        if isinstance(count, bool) or not isinstance(count, (int, type(None))):
            raise TypeError(f"RetryTaskException: count={count!r} is no whole number")
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float, type(None))):
            raise TypeError(f"RetryTaskException: timeout={timeout!r} is no number of seconds")
        if timeout is not None and not abs(timeout) < 1e15:
            raise ValueError(f"RetryTaskException: timeout={timeout!r} isn't finite")
        self.count = count
        self.timeout = timeout
