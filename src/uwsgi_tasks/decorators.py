"""The import path that release 0.7.3 had for the decorators."""

from .tasks import Task, TaskExecutor, task
from .timers import CronTask, TimerTask, cron, cron_lazy, timer, timer_lazy

__all__ = [
    "CronTask",
    "Task",
    "TaskExecutor",
    "TimerTask",
    "cron",
    "cron_lazy",
    "task",
    "timer",
    "timer_lazy",
]
