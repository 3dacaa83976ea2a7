"""The import path that release 0.7.3 had for the decorators."""

from .tasks import task
from .timers import cron, cron_lazy, timer, timer_lazy

__all__ = ["cron", "cron_lazy", "task", "timer", "timer_lazy"]
