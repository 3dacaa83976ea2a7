"""Schedules at run time: add, remove, pause, resume and look at them, from any process.

Example:
    >>> from uwsgi_tasks import schedules
    >>> schedules.add(send_report, cron="0 9 * * mon-fri", args=("daily",))  # doctest: +SKIP
"""

from __future__ import annotations

import builtins
import itertools
import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from . import calls, definition, engine, schedule, targets, tasks
from .definition import Definition
from .errors import OptionError, OptionValueError
from .model import ADDED, Message, Schedule, ScheduleOptions, TaskExecutor, new_id
from .site import Site

__all__ = [
    "ScheduleHandle",
    "add",
    "list",
    "next",
    "pause",
    "remove",
    "resume",
    "run_now",
    "show",
]


class ScheduleHandle(NamedTuple):
    """What is known of a schedule, at the moment at which it was looked at.

    Attributes:
        name: Its name.
        task: Name of the task that it submits.
        origin: ``"declared"`` by a decorator, or ``"added"``.
        rule: When it is due, for readers.
        target: Where it runs; empty: by its task's options.
        state: ``"active"``, ``"paused"``, or ``"stopped"`` (it came to its end).
        next_at: When it fires next (aware, UTC); ``None`` for never.
        last_at: When it fired last (aware, UTC); ``None`` if it didn't.
        last_id: Id of the last message that it submitted, or empty.
        iterations: How often it still fires; ``None`` for ever.
        fired: How often it fired.
        missed: How many of its moments were missed.
        skipped: How many were skipped because the last firing wasn't over.
    """

    name: str
    task: str
    origin: str
    rule: str
    target: str
    state: str
    next_at: datetime | None
    last_at: datetime | None
    last_id: str
    iterations: int | None
    fired: int
    missed: int
    skipped: int

    def remove(self) -> None:
        """Remove it; see ``schedules.remove``."""
        remove(self.name)

    def pause(self) -> None:
        """Pause it; see ``schedules.pause``."""
        pause(self.name)

    def resume(self) -> None:
        """Resume it; see ``schedules.resume``."""
        resume(self.name)

    def run_now(self) -> str:
        """Let it fire now; see ``schedules.run_now``."""
        return run_now(self.name)

    def next(self, n: int = 1) -> builtins.list[datetime]:
        """Return its next moments; see ``schedules.next``."""
        return next(self.name, n)


def add(
    task: Any,
    *,
    every: float | timedelta | None = None,
    cron: str | None = None,
    name: str | None = None,
    **options: Any,
) -> ScheduleHandle:
    """Add a schedule, which stays over restarts and deploys until it is removed.

    Adding the same again changes nothing; another definition under the same name replaces it.

    Args:
        task: A task, ``task.options(…)``, or the name of a task.
        every: The period: seconds (int, float) or a ``timedelta``.
        cron: A cron expression of five fields, or ``"@hourly"`` … ``"@yearly"``.
        name: Its name; default: the task's, with a tag that follows from the rest.
        **options: ``args``, ``kwargs``, ``tz``, ``start``, ``end``, ``jitter``, ``iterations``,
            ``missed``, ``overlap`` and ``target``; see ``timer``.

    Returns:
        What is known of it.

    Raises:
        OptionError: A name is unknown, or a value is of a wrong type.
        OptionValueError: A value can't be meant, or the code declares a schedule of that name.
        ArgumentsError: An argument can't be serialised.
        NotAvailable: There is no home here, or the target isn't there.

    Example:
        >>> add(send_report, every=3600, name="hourly report")  # doctest: +SKIP
    """
    this, shown = engine.current(), name or _name_of(task)
    site = this.require_site()
    asked = {key: value for key, value in options.items() if value is not None}
    setup = definition.checked(asked, definition.COMMON, shown)
    if name is not None:
        definition.checked({"name": name}, {"name": definition.word}, shown)
    found = _defined(task, name, shown, _rule(shown, every, cron, setup), setup)
    targets.check_target(this, site, found.target)
    site.note_package(found.message.task)
    row = site.store.add(found.row(time.time(), site.signer, this.server.incarnation, ADDED))
    if row is None:
        raise OptionValueError(
            f"{shown}: the code declares a schedule of that name: choose another"
        )
    for announce in targets.on_added:
        announce()
    site.home.wake_timekeeper()
    return _handle(row)


def _name_of(task: Any) -> str:
    return str(getattr(task, "name", "") or getattr(getattr(task, "_task", None), "name", task))


def _rule(
    name: str, every: Any, cron: Any, setup: dict[str, Any]
) -> schedule.Every | schedule.CronExpression:
    if (every is None) == (cron is None):
        raise OptionError(f"{name}: a schedule takes either every=… or cron=…")
    if every is not None:
        checks = {"every": definition.period}
        return schedule.Every(definition.checked({"every": every}, checks, name)["every"])
    if not isinstance(cron, str):
        raise OptionError(f"{name}: cron={cron!r}: it takes an expression, like '0 9 * * mon-fri'")
    try:
        return schedule.CronExpression(cron, setup.get("tz")).checked()
    except OptionValueError as error:
        raise OptionValueError(f"{name}: {error}") from None


def _defined(
    task: Any, name: str | None, shown: str, rule: schedule.Rule, setup: dict[str, Any]
) -> Definition:
    message, said = _template(task, setup.get("args", ()), setup.get("kwargs", {}))
    target = setup.get("target", "")
    if said.executor == TaskExecutor.RUNTIME and not target:
        raise OptionValueError(
            f"{shown}: executor=RUNTIME runs in the caller, and a schedule has none: name a target,"
            f" such as target='worker'"
        )
    period = rule.seconds if isinstance(rule, schedule.Every) else None
    chosen = definition.options_of(setup, shown, period)._replace(
        expires=said.expires,
        executor=said.executor,
        spooler=said.spooler,
        mule=said.mule,
        strict=said.strict,
        durability=said.durability,
    )
    number = setup.get("iterations") or None
    module = message.task.rpartition(".")[0]
    found = Definition(name or "", rule, target, 0, message, chosen, number, module)
    return found if name else found._replace(name=f"{message.task}#{found.digest()[:8]}")


def _template(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Message, ScheduleOptions]:
    """Return the message that is submitted at each firing, and what the task's options say."""
    known = tasks.named(task) if isinstance(task, str) else task
    if isinstance(known, (tasks.Task, tasks.Call)):
        message, said = tasks.template(known, args, kwargs)
        expires = said.expires if isinstance(said.expires, float) else 0.0
        options = ScheduleOptions(
            expires=expires,
            executor=int(said.executor),
            spooler=said.spooler,
            mule=said.mule,
            strict=said.strict,
            durability=said.durability,
        )
        on_disk = (said.durability or engine.current().settings.durability) == "disk"
        return message._replace(at=0.0, on_disk=on_disk), options
    if not isinstance(task, str):
        raise OptionError(f"{task!r} is no task: decorate the function with @task, or name a task")
    ident, name = new_id(), definition.checked({"task": task}, {"task": definition.word}, "add")
    payload = calls.payload_of(name["task"], args, kwargs, "pickle")
    return Message(ident, name["task"], payload), ScheduleOptions()


def remove(name: str) -> None:
    """Remove a schedule that was added.

    Raises:
        KeyError: There is no schedule of that name.
        OptionValueError: The code declares it.
        NotAvailable: There is no home here.
    """
    row = _row(name)
    if row.origin != ADDED:
        raise OptionValueError(
            f"{name}: the code declares this schedule: remove its decorator, or pause it"
        )
    _site().store.remove_schedules([name])


def pause(name: str) -> None:
    """Let a schedule not fire until it is resumed, over restarts too.

    Raises:
        KeyError: There is no schedule of that name.
        NotAvailable: There is no home here.
    """
    _row(name)
    _site().store.pause_schedule(name)


def resume(name: str) -> None:
    """Let a schedule fire again, in its phase; what came while it was paused wasn't missed.

    Raises:
        KeyError: There is no schedule of that name.
        NotAvailable: There is no home here.
    """
    row, now = _row(name), time.time()
    if row.moment is not None and row.moment <= now:
        following = builtins.next(_moments(row, now), None)
        row = row._replace(moment=following, next_at=following)
    site = _site()
    site.store.resume_schedule(row)
    site.home.wake_timekeeper()


def run_now(name: str) -> str:
    """Let a schedule fire once, now, beside its moments; where no server runs, at its next start.

    It fires also where it is paused or stopped, and whatever its last firing is at.

    Returns:
        Id of the message that it submits.

    Raises:
        KeyError: There is no schedule of that name.
        NotAvailable: There is no home here.
    """
    site = _site()
    ident = site.store.ask(name, new_id())
    if not ident:
        raise _unknown(name)
    site.home.wake_timekeeper()
    return ident


def show(name: str) -> ScheduleHandle:
    """Return what is known of a schedule.

    Raises:
        KeyError: There is no schedule of that name.
        NotAvailable: There is no home here.
    """
    return _handle(_row(name))


def list() -> builtins.list[ScheduleHandle]:
    """Return what is known of every schedule, declared and added ones, by name.

    Raises:
        NotAvailable: There is no home here.
    """
    return [_handle(row) for row in _site().store.schedules()]


def next(name: str, n: int = 1) -> builtins.list[datetime]:
    """Return the next moments of a schedule (aware, UTC), without its jitter.

    Args:
        name: Its name.
        n: How many at most; a schedule that ends has fewer.

    Raises:
        KeyError: There is no schedule of that name.
        NotAvailable: There is no home here.
    """
    row = _row(name)
    if not row.active or row.moment is None:
        return []
    most = n if row.iterations is None else min(n, row.iterations)
    now = time.time()
    first = (row.moment,) if row.moment > now else ()
    found = itertools.chain(first, _moments(row, max(now, row.moment)))
    return [_date(moment) for moment in itertools.islice(found, most)]


def _moments(row: Schedule, after: float) -> Iterator[float]:
    """Give the moments of a row after one."""
    rule = schedule.load_rule(json.loads(row.rule))
    end = ScheduleOptions(*json.loads(row.options)).end
    previous = row.moment
    while (found := rule.next_after(after, previous)) is not None and not (end and found > end):
        yield found
        after = previous = found


def _handle(row: Schedule) -> ScheduleHandle:
    rule = json.loads(row.rule)
    state = "paused" if row.paused else "active" if row.active else "stopped"
    fires = state == "active" and row.next_at is not None
    return ScheduleHandle(
        row.name,
        row.task,
        row.origin,
        "" if rule is None else schedule.describe(schedule.load_rule(rule)),
        row.target,
        state,
        _date(row.next_at) if fires and row.next_at is not None else None,
        _date(row.last_at) if row.last_at else None,
        row.last_id,
        row.iterations,
        row.fired,
        row.missed,
        row.skipped,
    )


def _date(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, timezone.utc)


def _row(name: str) -> Schedule:
    row = _site().store.schedule(name)
    if row is None:
        raise _unknown(name)
    return row


def _unknown(name: str) -> KeyError:
    return KeyError(f"There is no schedule {name!r}")


def _site() -> Site:
    return engine.current().require_site()
