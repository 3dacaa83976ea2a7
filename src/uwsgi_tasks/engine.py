"""The waist: the registry, and the way of a message: submit, place, process, settle.

What is wired together lives here, once per process: settings in force, server, registry,
middleware, and one ``Site`` per home.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from typing import Any, cast

from . import config, home, letters, runner, server, wire
from .errors import MessageTooBig, NotAvailable, OptionValueError, QueueFull
from .executors import mule as to_mule
from .executors import network
from .executors import spooler as to_spool
from .middleware import BUILT_IN, compose
from .model import (
    DEFAULT_PRIORITY,
    EXECUTOR_NAMES,
    Message,
    Outcome,
    Placement,
    Receipt,
    Run,
    TaskExecutor,
)
from .registry import Registry
from .site import Site

logger = logging.getLogger(__name__)

_CHAINS: dict[int, tuple[TaskExecutor, ...]] = {
    TaskExecutor.AUTO: (TaskExecutor.SPOOLER, TaskExecutor.MULE, TaskExecutor.RUNTIME),
    TaskExecutor.SPOOLER: (TaskExecutor.SPOOLER, TaskExecutor.MULE, TaskExecutor.RUNTIME),
    TaskExecutor.MULE: (TaskExecutor.MULE, TaskExecutor.SPOOLER, TaskExecutor.RUNTIME),
    TaskExecutor.RUNTIME: (TaskExecutor.RUNTIME,),
}
_ATTEMPTS_KEPT = 20
_UNKNOWN_AGAIN_S = 5.0
MULE_START_S = 5.0
TOMBSTONE_S = 3600.0


class Engine:
    """One per process, inherited over forks; what can't cross a fork re-opens itself.

    Args:
        here: The server that this process belongs to.
        configured: What ``configure()`` was given.
    """

    def __init__(self, here: server.Server, configured: dict[str, Any] | None = None) -> None:
        self.server = here
        self.settings, self.sources = config.load(configured or {}, here.option)
        named = self.settings.spooler
        self._named_spool = os.path.realpath(named) if named else ""
        self.call = compose(BUILT_IN)
        self._sites: dict[str, Site] = {}
        self._lock = threading.RLock()
        self._warned: set[tuple[str, str]] = set()
        self._plain: str | None = None

    # where things are

    def spools(self) -> list[str]:
        """Return the spool directories that tasks can go to, the default one first."""
        known, named = self.server.spools(), self._named_spool
        return [named, *(spool for spool in known if spool != named)] if named else [*known]

    def site(self, spool: str = "") -> Site | None:
        """Return the site of a spool directory, or this instance's own; ``None``: there is none.

        Raises:
            HomeError: The home can't be used.
            ConfigError: It was written with another key.
        """
        found = self._sites.get(spool)
        return found if found is not None else self._open_site(spool)

    def _open_site(self, spool: str) -> Site | None:
        with self._lock:
            if spool and self._is_foreign(spool):
                located: tuple[str, bool] | None = (os.path.join(spool, home.NAME), True)
            elif not self.server.inside and self._named_spool and not self.settings.home:
                located = (os.path.join(self._named_spool, home.NAME), True)
            else:
                located = home.locate(self.settings.home, self.server)
            if located is None:
                return None
            path, durable = located
            site = next((s for s in self._sites.values() if s.home.path == path), None)
            if site is None:
                site = Site(home.Home(path, durable=durable), self.settings.secret)
                if not durable:
                    home.remove_stale_ephemeral(path)
            self._sites[spool] = site
            return site

    def _is_foreign(self, spool: str) -> bool:
        """Tell whether another instance serves the spool: then its home and key are the ones."""
        own = self.server.own_spools()
        return not self.settings.home and bool(own) and spool not in own

    def require_site(self, spool: str = "") -> Site:
        """Return the site, which has to be there.

        Raises:
            NotAvailable: There is no home.
        """
        site = self.site(spool)
        if site is None:
            raise NotAvailable(
                "There is no home here: set UWSGITASKS_HOME, or configure(home=…) to the"
                " .uwsgi_tasks directory of the server"
            )
        return site

    # submit

    def submit(self, message: Message, placement: Placement) -> Receipt:
        """Hand a message to the first executor of its chain that takes it.

        Raises:
            NotAvailable: None may take it.
            QueueFull: The mule's queue is full and there is no spooler.
            MessageTooBig: It doesn't fit a mule and there is no spooler.
        """
        if placement.spooler.startswith(network.SCHEME):
            return self._submit_network(message, placement)
        asked = placement.executor
        if asked == TaskExecutor.AUTO:
            asked = TaskExecutor[self.settings.executor.upper()]
        strict = self.settings.strict if placement.strict is None else placement.strict
        refusal: Exception | None = None
        for executor in _CHAINS[asked]:
            if executor == TaskExecutor.RUNTIME and refusal is not None:
                break  # a task that a mule had no room for must not surprise the caller's process
            problem = self._problem(executor, placement)
            if problem is None:
                try:
                    return self._place(message, executor, placement)
                except (QueueFull, MessageTooBig) as error:
                    refusal, problem = error, str(error)
            if strict and asked != TaskExecutor.AUTO:
                raise refusal or NotAvailable(f"Task {message.task}: {problem}")
            self._warn_of_fallback(message.task, asked, executor, problem)
        raise refusal or NotAvailable(f"Task {message.task}: no executor takes it")

    def _problem(self, executor: int, placement: Placement) -> str | None:
        if executor == TaskExecutor.SPOOLER:
            return self._spooler_problem()
        if executor == TaskExecutor.MULE:
            return self._mule_problem(placement.mule)
        return None

    def _spooler_problem(self) -> str | None:
        here = self.server
        if not self.spools():
            return "there is no spooler: add `spooler = /path/of/a/directory` to uwsgi.ini"
        if self._plain or here.preloaded or not here.own_spools():
            return None
        site = self.site()
        if site is not None and site.home.is_announced(f"spooler-{here.incarnation}"):
            self._plain = "announced"
            return None
        return (
            "no spooler has loaded uwsgi_tasks, which was imported after the fork: add"
            " `shared-import = MODULE` (or `spooler-import = MODULE`) with the module of the tasks"
            " to uwsgi.ini, or import it where uWSGI loads the application"
        )

    def _mule_problem(self, mule: int | str | None) -> str | None:
        here = self.server
        if not here.inside or not here.has_mules():
            return "there is no mule: add `mule = true` to uwsgi.ini"
        if not here.preloaded:
            return (
                "no mule has loaded uwsgi_tasks, which was imported after the fork: add"
                " `shared-import = MODULE` with the module of the tasks to uwsgi.ini"
            )
        if isinstance(mule, int) and not self._has_mule(mule):
            there = self.require_site().home.announced_mules(here.incarnation) or "none"
            raise OptionValueError(f"mule={mule}: there is no such mule; there are {there}")
        return None

    def _has_mule(self, mule: int) -> bool:
        """Tell whether a mule announced itself, waiting for one that may be starting."""
        here, site = self.server, self.require_site()
        deadline = time.monotonic() + MULE_START_S - server.process_age()
        while not site.home.is_mule_announced(mule, here.incarnation):
            if time.monotonic() > deadline or here.kind() == "master":
                return False
            time.sleep(0.01)
        return True

    def _warn_of_fallback(self, task: str, asked: int, executor: int, problem: str) -> None:
        here = self.server
        if not here.inside or executor != _CHAINS[asked][0]:
            return
        if not here.has_master:
            problem = "uWSGI runs without a master, so without spoolers: add `master = true`"
        elif asked == TaskExecutor.AUTO and here.preloaded:
            return
        if self._first_time(task, problem):
            logger.warning(
                "Task %s asked for %s, but %s. It goes elsewhere (strict=True refuses it)",
                task,
                EXECUTOR_NAMES[asked],
                problem,
                extra={"action": "fallback", "task": task},
            )

    def _place(self, message: Message, executor: TaskExecutor, placement: Placement) -> Receipt:
        if executor == TaskExecutor.RUNTIME:
            return self._run_here(message)
        spool = self.spool_for(message.queue, placement) if executor == TaskExecutor.SPOOLER else ""
        site = self.require_site(spool)
        prioritised = executor == TaskExecutor.SPOOLER and (
            message.priority is not None or site.home.priorities_wait()
        )
        if prioritised and message.priority is None:
            message = message._replace(priority=DEFAULT_PRIORITY)
        if prioritised or message.at > time.time():
            site.wait(message, message.at, executor, spool, placement.mule)
            if prioritised and message.at <= time.time():
                self.pump(site, spool)
            else:
                site.home.wake_timekeeper()
        elif executor == TaskExecutor.SPOOLER:
            content = wire.spool_file(wire.pack(message, site.signer))
            to_spool.submit(spool, message.id, message.attempt, content)
            self.wake(site, spool)
        else:
            to_mule.submit(
                cast(server.Uwsgi, self.server), wire.pack(message, site.signer), placement.mule
            )
        return Receipt(executor, spool)

    def _submit_network(self, message: Message, placement: Placement) -> Receipt:
        site = self.require_site()
        if not self.settings.secret:
            raise NotAvailable(
                "A network spooler needs the same `secret` on both sides: set UWSGITASKS_SECRET"
            )
        network.submit(placement.spooler, wire.pack(message, site.signer))
        return Receipt(TaskExecutor.SPOOLER, placement.spooler)

    def spool_for(self, queue: str, placement: Placement) -> str:
        """Return the spool directory that a call asks for.

        Raises:
            OptionValueError: It isn't one of the configured ones.
        """
        spools = self.spools()
        if placement.spooler:
            path, origin = os.path.realpath(placement.spooler), f"spooler={placement.spooler!r}"
        else:
            path, origin = dict(self.settings.queues).get(queue, ""), f"the queue {queue!r}"
        if path and path not in spools:
            raise OptionValueError(
                f"{origin}: {path} is no spooler of this server; there are {', '.join(spools)}"
            )
        return path or spools[0]

    def wake(self, site: Site, spool: str) -> None:
        """Wake the spoolers of a directory: ours by a signal, another instance's by its FIFO."""
        if site.home.is_paused():
            return  # resume() wakes them
        if not self.server.wake(spool):
            site.home.wake_timekeeper()

    def pump(self, site: Site, spool: str, *, swap: bool = True) -> None:
        """Let the most urgent prioritised tasks of a spool in, one per spooler process."""
        if site.pump(spool, max(1, len(self.server.spooler_pids(spool))), swap=swap):
            self.wake(site, spool)

    def pump_if_any(self, site: Site, spool: str) -> None:
        """Pump where prioritised tasks wait; costs nothing where none do."""
        if spool and site.home.priorities_wait():
            self.pump(site, spool)

    # process

    def process(self, message: Message, executor: int, spool: str = "") -> Outcome:
        """Run a message that came to this process, and settle it.

        A mule runs retries that need no wait at once; a spooler gets each as a file of its own.
        """
        site = self.require_site(spool)
        while True:
            run, outcome = runner.run(message, executor, registry.resolve, self.call, spool)
            outcome = self.bounded(run, outcome)
            if executor == TaskExecutor.MULE and outcome.state == "retry" and not outcome.wait:
                message = self.next_attempt(run, outcome)
                continue
            self.settle(site, run, outcome, spool)
            return outcome

    def bounded(self, run: Run, outcome: Outcome) -> Outcome:
        """Return the outcome, a retry turned into a death where it can't or mustn't be."""
        if outcome.state != "retry":
            return outcome
        spec = run.spec
        most = (spec.max_attempts if spec else None) or self.settings.max_attempts
        if run.message.attempt >= most:
            reason = f"{outcome.reason}, and max_attempts={most} is reached"
            return outcome._replace(state="dead", reason=reason)
        try:
            runner.buffer_of(run)
        except TypeError as error:
            return outcome._replace(state="dead", reason="its buffer can't be kept", error=error)
        return outcome

    def settle(self, site: Site, run: Run, outcome: Outcome, spool: str) -> None:
        """Write down what follows from an outcome: nothing, another attempt, or a dead letter."""
        message, state = run.message, outcome.state
        if state == "unknown":
            outcome = self._settle_unknown(site, run, outcome, spool)
            state = outcome.state
        if state == "ok":
            site.finish(message)
        elif state == "retry":
            self._settle_retry(site, run, outcome, spool)
        elif state in ("dead", "unloadable"):
            self.bury(site, run, outcome, spool)
        self.pump_if_any(site, spool)
        runner.log_end(run, outcome)

    def _settle_retry(self, site: Site, run: Run, outcome: Outcome, spool: str) -> None:
        due = time.time() + outcome.wait
        site.wait(self.next_attempt(run, outcome), due, run.executor, spool)
        if outcome.wait:
            site.home.wake_timekeeper()
        elif run.message.priority is None:
            site.promote(due, None)
            if not outcome.next_scan:
                self.wake(site, spool)

    def _settle_unknown(self, site: Site, run: Run, outcome: Outcome, spool: str) -> Outcome:
        message, now = run.message, time.time()
        since = message.first_unknown_at or now
        left = since + self.settings.unknown_grace - now
        if left <= 0:
            self.bury(site, run, outcome, spool)
            return outcome._replace(state="dead")
        again = message._replace(first_unknown_at=since)
        site.wait(again, now + min(_UNKNOWN_AGAIN_S, left), run.executor, spool, again=True)
        site.home.wake_timekeeper()
        return outcome

    def next_attempt(self, run: Run, outcome: Outcome) -> Message:
        """Return the message of the attempt that follows a retry."""
        message, spec = run.message, run.spec
        changed = run.policy is not (message.policy or (spec and spec.policy))
        return message._replace(
            attempt=message.attempt + 1,
            executions_left=outcome.executions_left,
            policy=run.policy if changed else message.policy,
            at=0.0,
            buffer=runner.buffer_of(run),
            attempts=(*message.attempts, runner.evidence(run, outcome))[-_ATTEMPTS_KEPT:],
        )

    def bury(self, site: Site, run: Run, outcome: Outcome, spool: str) -> None:
        """Keep a dead letter of a run's message, then note that it is final."""
        message, error = run.message, outcome.error
        story = message._replace(
            attempts=(*message.attempts, runner.evidence(run, outcome))[-_ATTEMPTS_KEPT:]
        )
        text = "" if error is None else "".join(traceback.format_exception(error))
        letter = letters.letter_of(story, outcome.reason, runner.describe(error), text, spool)
        site.bury(letter, wire.pack(message, site.signer))
        if not site.home.durable and self._first_time("", "ephemeral"):
            logger.warning(
                "There is no spooler and no UWSGITASKS_HOME: dead letters lie in %s until the"
                " server stops",
                site.home.path,
            )
        site.finish(message)

    # run in the caller

    def _run_here(self, message: Message) -> Receipt:
        if message.at > time.time() and self._first_time(message.task, "at"):
            logger.warning(
                "Task %s has an `at`, which RUNTIME doesn't sleep through: it runs now",
                message.task,
            )
        while True:
            run, outcome = runner.run(message, TaskExecutor.RUNTIME, registry.resolve, self.call)
            outcome = self.bounded(run, outcome)
            if outcome.state != "retry":
                runner.log_end(run, outcome)
                return Receipt(TaskExecutor.RUNTIME, "", outcome, outcome.error)
            message = self.next_attempt(run, outcome)

    def _first_time(self, task: str, matter: str) -> bool:
        if (task, matter) in self._warned:
            return False
        self._warned.add((task, matter))
        return True


registry = Registry()
_configured: dict[str, Any] = {}
_current: Engine | None = None
_building = threading.Lock()


def current() -> Engine:
    """Return this process's engine; it is built at the first use."""
    global _current
    engine = _current
    if engine is None:
        with _building:
            engine = _current = _current or Engine(server.detect(), _configured)
    return engine


def configure(**settings: Any) -> None:
    """Set settings for this process and those that it forks.

    Args:
        **settings: See the table of settings in the reference; later calls add to earlier ones.

    Raises:
        ConfigError: A name is unknown, or a value can't be meant.
    """
    global _current
    _configured.update(config.check(settings))
    with _building:  # the server stays: what was loaded before the fork is so afterwards
        _current = _current and Engine(_current.server, _configured)


def reset(engine: Engine | None = None) -> None:
    """Forget what was configured and built, and use an engine of the caller's; for tests."""
    global _current
    _configured.clear()
    with _building:
        _current = engine
