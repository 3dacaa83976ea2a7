"""The public API as a type checker sees it: read by mypy and pyright, and run as it stands.

A line that has to be wrong carries ``type: ignore`` with its reason: mypy, which is strict, tells
when it isn't wrong any more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import uwsgi_tasks
from uwsgi_tasks import (
    SPOOL_OK,
    SPOOL_RETRY,
    CronTask,
    Handle,
    RetryTaskException,
    Task,
    TaskExecutor,
    TimerTask,
    configure,
    control,
    cron,
    dead,
    get_current_task,
    task,
    timer,
)
from uwsgi_tasks.dead import DeadLetter
from uwsgi_tasks.schedules import ScheduleHandle
from uwsgi_tasks.tasks import BaseTask

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, kind: Any) -> Any:
        """Return the value, as the real one does."""
        return value


@task
def bare(number: int, word: str = "x") -> list[str]:
    """Repeat a word."""
    return [word] * number


@task(executor=TaskExecutor.RUNTIME, retry_count=3, retry_timeout=timedelta(seconds=1))
def with_options(number: int, *, flag: bool = False) -> str | None:
    """Return a text, or nothing."""
    return str(number) if flag else None


@task(spooler_return=True)
def with_codes() -> int:
    """Return a code."""
    if get_current_task() is None:
        raise RetryTaskException(count=1, timeout=timedelta(seconds=5))
    return SPOOL_RETRY if False else SPOOL_OK


@timer(seconds=30, target="spooler")
def sweep(signal_number: int) -> None:
    """Sweep."""


@cron("0 9 * * mon-fri", tz="Europe/Rome")
def wake_up(signal_number: int) -> None:
    """Wake up."""


def calls() -> None:
    """Call tasks."""
    handle = assert_type(bare(2, word="a"), Handle[list[str]])
    assert_type(handle.result(), list[str])
    assert_type(handle.id, str)
    assert_type(handle.executor, TaskExecutor)
    assert_type(handle.status(), str)
    assert_type(handle.cancel(), bool)
    assert_type(with_options(1, flag=True).result(timeout=1.5), "str | None")
    assert_type(bare.run(1), list[str])
    assert_type(bare.name, str)
    assert_type(bare.options(priority=5)(1), Handle[list[str]])
    assert_type(with_codes(), Handle[int])
    bare.add_setup(priority=None)


def takes_a_function(function: Callable[[int], object]) -> None:
    """Take any callable of a number: a task is one."""


def takes_a_task(found: Task[..., Any]) -> str:
    """Take any task."""
    return found.name


def running() -> None:
    """Look at the running task."""
    current = assert_type(get_current_task(), "BaseTask | None")
    if current is not None:
        assert_type(current, BaseTask)
        assert_type(current.id, str)
        assert_type(current.attempt, int)
        assert_type(current.buffer, dict[Any, Any])
        assert_type(current.args, tuple[Any, ...])
        assert_type(current.retry_timeout, float)
        current.at = timedelta(hours=1)


def schedules() -> None:
    """Use schedules."""
    assert_type(sweep, TimerTask)
    assert_type(wake_up, CronTask)
    assert_type(sweep.number, int)
    sweep.add_setup(iterations=3)
    sweep.run()


def added_schedules() -> None:
    """Use schedules that are added."""
    found = uwsgi_tasks.schedules.add(bare, every=timedelta(hours=1), args=(1,), missed="once")
    assert_type(found, ScheduleHandle)
    assert_type(found.next(3), list[datetime])
    assert_type(uwsgi_tasks.schedules.list(), list[ScheduleHandle])
    assert_type(uwsgi_tasks.schedules.run_now("a"), str)


def steering() -> None:
    """Steer a server."""
    assert_type(control.paused(), bool)
    assert_type(control.busy(), int)
    letters = dead.list()
    assert_type(letters, list[DeadLetter])
    for letter in letters:
        assert_type(letter.attempts, list[dict[str, Any]])
        dead.retry(letter.id)


def mistakes() -> None:
    """Be told of mistakes by the type checker."""
    bare("two")  # type: ignore[arg-type]  # a text for a number
    bare()  # type: ignore[call-arg]  # an argument is missing
    bare(1, colour="red")  # type: ignore[call-arg]  # no such argument
    bare.run("two")  # type: ignore[arg-type]  # the plain function has the same types
    bare.options(priority=5)("two")  # type: ignore[arg-type]  # and so has a call with options
    with_options(1, True)  # type: ignore[call-arg]  # flag is keyword-only
    RetryTaskException(count="3")  # type: ignore[arg-type]  # a text for a count


def main() -> None:
    """Do what can be done without a server."""
    configure(max_attempts=10)
    calls()
    takes_a_function(bare)
    takes_a_task(bare)
    running()
    schedules()
    uwsgi_tasks.set_uwsgi_callbacks()


if __name__ == "__main__":
    main()
