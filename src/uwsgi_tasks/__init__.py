"""Background tasks, timers and cron for Python web applications, run by uWSGI itself.

Example:
    >>> from uwsgi_tasks import task, TaskExecutor
    >>> @task(executor=TaskExecutor.SPOOLER)  # doctest: +SKIP
    ... def send_email(subject, to):
    ...     ...
    >>> send_email("Welcome!", "user@example.com")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import control, dead
from .calls import get
from .control import drain, pause, resume
from .engine import configure
from .errors import (
    ArgumentsError,
    ConfigError,
    HomeError,
    MessageTooBig,
    NotAvailable,
    OptionError,
    OptionValueError,
    QueueFull,
    ResultTimeout,
    RetryTaskException,
    SignatureError,
    SoftTimeout,
    TaskCancelled,
    TaskFailed,
    UnknownTask,
    UwsgiTasksError,
    WireError,
)
from .handlers import install as set_uwsgi_callbacks
from .integrations.django import django_setup
from .tasks import (
    SPOOL_IGNORE,
    SPOOL_OK,
    SPOOL_RETRY,
    Handle,
    Task,
    TaskExecutor,
    get_current_task,
    task,
)
from .timers import CronTask, SignalTask, TimerTask, cron, cron_lazy, timer, timer_lazy

__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "ArgumentsError",
    "ConfigError",
    "CronTask",
    "Handle",
    "HomeError",
    "MessageTooBig",
    "NotAvailable",
    "OptionError",
    "OptionValueError",
    "QueueFull",
    "ResultTimeout",
    "RetryTaskException",
    "SignalTask",
    "SignatureError",
    "SoftTimeout",
    "Task",
    "TaskCancelled",
    "TaskExecutor",
    "TaskFailed",
    "TimerTask",
    "UnknownTask",
    "UwsgiTasksError",
    "WireError",
    "configure",
    "control",
    "cron",
    "cron_lazy",
    "dead",
    "django_setup",
    "drain",
    "get",
    "get_current_task",
    "pause",
    "resume",
    "schedules",
    "set_uwsgi_callbacks",
    "task",
    "timer",
    "timer_lazy",
]


if TYPE_CHECKING:
    from . import schedules


def __getattr__(name: str) -> Any:
    if name == "schedules":  # imported at its first use
        from importlib import import_module

        return import_module("uwsgi_tasks.schedules")
    if name == "__version__":
        from importlib.metadata import version

        return version("uwsgi-tasks")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


set_uwsgi_callbacks()
