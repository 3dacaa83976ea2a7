"""The waist: the registry, and the way of a message: submit, place, process, settle.

What is wired together lives here, once per process: settings in force, server, registry,
middleware, and one ``Site`` per home.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, cast

from . import config, paths, runner, server, wire
from .errors import MessageTooBig, NotAvailable, QueueFull, UnknownTask
from .executors import mule as to_mule
from .executors import network
from .executors import spooler as to_spool
from .limits import Limiter
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
    TaskSpec,
)
from .registry import Registry
from .settling import Settler

logger = logging.getLogger(__name__)

_CHAINS: dict[int, tuple[TaskExecutor, ...]] = {
    TaskExecutor.AUTO: (TaskExecutor.SPOOLER, TaskExecutor.MULE, TaskExecutor.RUNTIME),
    TaskExecutor.SPOOLER: (TaskExecutor.SPOOLER, TaskExecutor.MULE, TaskExecutor.RUNTIME),
    TaskExecutor.MULE: (TaskExecutor.MULE, TaskExecutor.SPOOLER, TaskExecutor.RUNTIME),
    TaskExecutor.RUNTIME: (TaskExecutor.RUNTIME,),
}
_ON_DISK_CHAIN = (TaskExecutor.SPOOLER, TaskExecutor.RUNTIME)
TOMBSTONE_S = 3600.0
PAUSED = Outcome("paused")


class Engine(Settler):
    """One per process, inherited over forks; what can't cross a fork re-opens itself.

    Args:
        here: The server that this process belongs to.
        configured: What ``configure()`` was given.
    """

    def __init__(self, here: server.Server, configured: dict[str, Any] | None = None) -> None:
        super().__init__(here, configured)
        limiter = Limiter(here)
        self.call = compose((self.stopper, limiter, *BUILT_IN))
        self.call_here = compose((limiter, *BUILT_IN))
        self.has_imported = False
        self.settled_late: set[tuple[str, int]] = set()
        self.unsettled: dict[str, tuple[Run, Outcome, str]] = {}

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
        self._check_size(message)
        asked = placement.executor
        if asked == TaskExecutor.AUTO:
            asked = TaskExecutor[self.settings.executor.upper()]
        strict = self.settings.strict if placement.strict is None else placement.strict
        message, asked, chain = self._with_durability(message, asked, placement)
        refusal: Exception | None = None
        for executor in chain:
            if executor == TaskExecutor.RUNTIME and refusal is not None:
                break  # a task that a mule had no room for must not surprise the caller's process
            problem = self.problem(executor, placement)
            if problem is None:
                try:
                    receipt = self._place(message, executor, placement)
                    if refusal is not None:
                        self.require_site().home.count("mule_rerouted")
                    return receipt
                except (QueueFull, MessageTooBig) as error:
                    refusal, problem = error, str(error)
                    if isinstance(error, QueueFull):
                        self.require_site().home.count("mule_full")
            if strict and asked != TaskExecutor.AUTO:
                raise refusal or NotAvailable(f"Task {message.task}: {problem}")
            self._warn_of_fallback(message.task, asked, executor, problem)
        raise refusal or NotAvailable(f"Task {message.task}: no executor takes it")

    def _with_durability(
        self, message: Message, asked: int, placement: Placement
    ) -> tuple[Message, int, tuple[TaskExecutor, ...]]:
        durability = placement.durability or self.settings.durability
        if durability == "disk" and asked in (TaskExecutor.AUTO, TaskExecutor.SPOOLER):
            return message._replace(on_disk=True), asked, _ON_DISK_CHAIN
        if durability == "memory" and asked == TaskExecutor.AUTO:
            asked = TaskExecutor.MULE
        return message, asked, _CHAINS[asked]

    def _check_size(self, message: Message) -> None:
        size, most = len(message.payload) + len(message.buffer), self.max_message_bytes()
        if size > most:
            raise MessageTooBig(
                f"Task {message.task}: its arguments have {size} bytes, max_message_bytes allows"
                f" {most}: pass a reference to the data, or set max_message_bytes"
            )

    def _warn_of_fallback(self, task: str, asked: int, executor: int, problem: str) -> None:
        here = self.server
        if not here.inside or executor != _CHAINS[asked][0]:
            return
        if not here.has_master:
            problem = "uWSGI runs without a master, so without spoolers: add `master = true`"
        elif asked == TaskExecutor.AUTO and here.preloaded:
            return
        if self.first_time(task, problem):
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
        site = self.present_site(spool)
        site.note_package(message.task)
        if self.remote is not None:
            self.remote.tell_if_down(logger.warning)
        prioritised = executor == TaskExecutor.SPOOLER and (
            message.priority is not None or site.home.priorities_wait()
        )
        if prioritised and message.priority is None:
            message = message._replace(priority=DEFAULT_PRIORITY)
        if prioritised or message.at > time.time():
            theirs = self.theirs(spool)
            site.wait(message, message.at, executor, theirs, placement.mule)
            if prioritised and message.at <= time.time() and theirs == spool:
                self.take_turn(site, spool, message)
            elif prioritised:
                site.home.wake_timekeeper()
            if message.at:  # also where it has just become due: its row may wait for its time
                site.home.wake_timekeeper_for(message.at)
        elif executor == TaskExecutor.SPOOLER:
            content = wire.spool_file(wire.pack(message, site.signer))
            to_spool.submit(spool, message.id, message.delivery, content, sync=message.on_disk)
            self.wake(site, spool)
        else:
            to_mule.submit(
                cast(server.Uwsgi, self.server), wire.pack(message, site.signer), placement.mule
            )
        return Receipt(executor, spool)

    def _submit_network(self, message: Message, placement: Placement) -> Receipt:
        if not self.settings.secret:
            raise NotAvailable(
                "A network spooler needs the same `secret` on both sides: set UWSGITASKS_SECRET"
            )
        signer = wire.Signer([key.encode() for key in self.settings.secret])
        network.submit(placement.spooler, wire.pack(message, signer))
        return Receipt(TaskExecutor.SPOOLER, placement.spooler)

    # process

    def resolve(self, name: str) -> TaskSpec:
        """Return the registered task of a name; its module is imported where that is allowed.

        Raises:
            UnknownTask: It isn't registered, and its module mayn't be imported or can't be found.
            Exception: Whatever importing its module raised.
        """
        spec = registry.specs.get(name)
        if spec is not None:
            return spec
        if not self._may_import(name):
            raise UnknownTask(
                f"There is no task {name!r} here, and its module isn't imported: it is in none of"
                f" the packages of the server. Import it, or set allowed_packages"
            )
        self.has_imported = True
        return registry.resolve(name)

    def _may_import(self, name: str) -> bool:
        """Tell whether a module may be imported because a message names a task of it.

        One that the application imported, in this process or in the one that calls the task.
        """
        package = paths.package_of(name)
        return (
            not {package, "*"}.isdisjoint(self.settings.allowed_packages)
            or paths.is_application_package(package)
            or any(paths.package_of(known) == package for known in registry.specs)
            or any(site.knows_package(package) for site in self._sites.values())
        )

    def process(
        self, message: Message, executor: int, spool: str = "", envelope: bytes = b""
    ) -> Outcome:
        """Run a message that came to this process, and settle it.

        A mule runs retries that need no wait at once, a worker every one; a spooler gets each as a
        file of its own.

        Args:
            message: What to run.
            executor: By which door it came.
            spool: Spool directory that its file lies in.
            envelope: The message as it came, where no file holds it.

        Returns:
            How it ended; ``PAUSED`` where taking tasks was paused just before it began.
        """
        site, pid = self.require_site(spool), os.getpid()
        while True:
            if executor != TaskExecutor.RUNTIME:
                site.inflight.begin(message.id, message.delivery, envelope)
                # looked at after the record is there: who drains sees one of both
                if site.home.is_paused(spool):
                    site.inflight.release()
                    return PAUSED
            run, outcome = runner.run(message, executor, self.resolve, self.call, spool)
            if os.getpid() != pid:
                os._exit(0)  # the task forked, and this is the child
            if executor != TaskExecutor.RUNTIME and not site.inflight.is_open():
                site.reopen()
            outcome = self.unless_cancelled(site, message, self.bounded(run, outcome))
            if outcome.state == "retry" and (
                executor == TaskExecutor.RUNTIME
                or (executor == TaskExecutor.MULE and not outcome.wait)
            ):
                message = self.next_attempt(run, outcome)
                envelope = wire.pack(message, site.signer)
                continue
            try:
                self.settle(site, run, outcome, spool)
            except Exception:
                self.unsettled[message.id] = (run, outcome, spool)
                site.inflight.keep()
                raise
            return outcome

    def settle_again(self) -> None:
        """Settle what couldn't be: it ran, and isn't run again while this process lives.

        Raises:
            Exception: It still can't be.
        """
        for ident, (run, outcome, spool) in list(self.unsettled.items()):
            site = self.require_site(spool)
            self.settle(site, run, outcome, spool)
            del self.unsettled[ident]
            self.settled_late.add((ident, run.message.delivery))
            for record in site.inflight.records():
                if record.id == ident and site.inflight.is_mine(record):
                    site.inflight.clear(record)

    # run in the caller

    def _run_here(self, message: Message) -> Receipt:
        if message.at > time.time() and self.first_time(message.task, "at"):
            logger.warning(
                "Task %s has an `at`, which RUNTIME doesn't sleep through: it runs now",
                message.task,
            )
        while True:
            run, outcome = runner.run(message, TaskExecutor.RUNTIME, self.resolve, self.call_here)
            outcome = self.bounded(run, outcome)
            if outcome.state != "retry":
                runner.log_end(run, outcome)
                return Receipt(TaskExecutor.RUNTIME, "", outcome, outcome.error)
            message = self.next_attempt(run, outcome)


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
