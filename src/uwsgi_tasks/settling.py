"""What follows from an outcome: nothing, another delivery, or a dead letter; written down at once.

Each step is safe before the next: what follows is written first, then the delivery is noted as
over, then uWSGI may remove its file. A death in between repeats a step and finds it done.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback

from . import cancelling, history, inflight, journal, letters, runner, wire
from .board import Teller
from .errors import HomeError
from .home import ACTIVE, SPOOL
from .model import Attempt, Message, Outcome, Run, TaskExecutor
from .places import Places
from .site import Site

logger = logging.getLogger(__name__)

_ENDS = {
    "ok": inflight.OK,
    "retry": inflight.RETRIED,
    "unknown": inflight.AGAIN,
    "dead": inflight.DEAD,
    "cancelled": inflight.CANCELLED,
    "unloadable": inflight.DEAD,
}
_GOES_ON = (inflight.RETRIED, inflight.AGAIN)
_ATTEMPTS_KEPT = 20
_UNKNOWN_AGAIN_S = 5.0


class Settler(Places):
    """The part of the engine that ends a delivery."""

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
        """Write down what follows from an outcome: nothing, another attempt, or a dead letter.

        Raises:
            Exception: It can't be written; nothing follows, and it can be settled again.
        """
        message, state, text = run.message, outcome.state, ""
        if state == "unknown":
            outcome = self._settle_unknown(site, run, outcome, spool)
            state = outcome.state
        elif state == "retry":
            self.deliver(site, self.next_attempt(run, outcome), outcome, run.executor, spool)
        elif state in ("dead", "unloadable"):
            text = "".join(traceback.format_exception(outcome.error)) if outcome.error else ""
            evidence = runner.evidence(run, outcome)
            error = runner.describe(outcome.error)
            kept = message._replace(buffer=self._buffer_left(run))
            self.bury(site, kept, evidence, outcome.reason, spool, error=error, trace=text)
        self.close(site, message, run.executor, _ENDS[state], checkpointed=run.checkpointed)
        if run.executor != TaskExecutor.RUNTIME and _ENDS[state] not in _GOES_ON:
            self.remember(site, run, outcome, text)
        if state == "retry" and self._is_cancelled(site, message):  # asked while that was written
            site.cancel(message.id, [spool] if spool else [])
        self.pump_if_any(site, spool)
        runner.log_end(run, outcome)

    def unless_cancelled(self, site: Site, message: Message, outcome: Outcome) -> Outcome:
        """Return the outcome; a retry of what was cancelled while it ran is none."""
        if outcome.state == "retry" and self._is_cancelled(site, message):
            return Outcome("cancelled", reason="cancelled while it ran")
        return outcome

    def _is_cancelled(self, site: Site, message: Message) -> bool:
        place = site.inflight.place
        return place is not None and bool(
            site.board.is_asked_to_stop(place, message.id, message.delivery)
        )

    def _buffer_left(self, run: Run) -> bytes:
        """Return the buffer as the task left it, or as it was where that can't be kept."""
        try:
            return runner.buffer_of(run)
        except TypeError:
            return run.message.buffer

    def close(
        self, site: Site, message: Message, executor: int, end: int, *, checkpointed: bool = True
    ) -> None:
        """Note that a delivery is over: what follows from it is written down."""
        if end not in (inflight.RETRIED, inflight.AGAIN):
            site.finish(message)
        if checkpointed and site.has_store():
            site.store.drop_checkpoint(message.id)
        if executor != TaskExecutor.RUNTIME:
            site.inflight.end(message.id, message.delivery, end)

    def deliver(
        self,
        site: Site,
        message: Message,
        outcome: Outcome,
        executor: int,
        spool: str,
        mule: int | str | None = None,
    ) -> None:
        """Write the next delivery of a message down; it enters its executor when it is due."""
        due = time.time() + outcome.wait
        site.wait(message, due, executor, spool, mule)
        try:  # from here on the timekeeper can do the rest
            if outcome.wait or executor != TaskExecutor.SPOOLER:
                site.home.wake_timekeeper_for(due)
            elif message.priority is None:
                if site.promote_one(message.id, due) and not outcome.next_scan:
                    self.wake(site, spool)
            else:
                self.take_turn(site, spool, message)
        except Exception:
            logger.exception("Task %s %s waits for the timekeeper", message.task, message.id)

    def _settle_unknown(self, site: Site, run: Run, outcome: Outcome, spool: str) -> Outcome:
        message, now = run.message, time.time()
        since = message.first_unknown_at or now
        left = since + self.settings.unknown_grace - now
        if left <= 0:
            evidence, error = runner.evidence(run, outcome), runner.describe(outcome.error)
            self.bury(site, message, evidence, outcome.reason, spool, error=error)
            return outcome._replace(state="dead")
        again = message._replace(first_unknown_at=since, delivery=message.delivery + 1)
        wait = min(_UNKNOWN_AGAIN_S, left)
        self.deliver(site, again, outcome._replace(wait=wait), run.executor, spool)
        return outcome

    def next_attempt(self, run: Run, outcome: Outcome) -> Message:
        """Return the message of the attempt that follows a retry."""
        message, spec = run.message, run.spec
        changed = run.policy is not (message.policy or (spec and spec.policy))
        return message._replace(
            attempt=message.attempt + 1,
            delivery=message.delivery + 1,
            executions_left=outcome.executions_left,
            policy=run.policy if changed else message.policy,
            at=0.0,
            buffer=runner.buffer_of(run),
            attempts=(*message.attempts, runner.evidence(run, outcome))[-_ATTEMPTS_KEPT:],
        )

    def bury(
        self,
        site: Site,
        message: Message,
        evidence: Attempt | None,
        reason: str,
        spool: str,
        *,
        error: str = "",
        trace: str = "",
    ) -> None:
        """Keep a dead letter of a message.

        Args:
            site: The home.
            message: What is dead.
            evidence: Its last attempt, if it started.
            reason: Why, in a few words.
            spool: Spool directory it came from, if any.
            error: The last exception's type and text.
            trace: The last exception's traceback.
        """
        story = message
        if evidence is not None:
            attempts = (*message.attempts, evidence)[-_ATTEMPTS_KEPT:]
            story = message._replace(attempts=attempts)
        letter = letters.letter_of(story, reason, error, trace, spool)
        site.bury(letter, wire.pack(message, site.signer), sync=message.on_disk)
        if not site.home.durable and self.first_time("", "ephemeral"):
            logger.warning(
                "There is no spooler and no UWSGITASKS_HOME: dead letters lie in %s until the"
                " server stops",
                site.home.path,
            )

    # what is remembered

    def remember(self, site: Site, run: Run, outcome: Outcome, trace: str) -> None:
        """Write how a run ended into the history, and wake who waits for it."""
        message, lines = run.message, self.stopper.lines.take()
        if self.settings.history:
            is_plain = outcome.state == "ok" and run.teller is None and not message.attempts
            if is_plain and not self.keeps_result(run):
                site.history.note_plain(message, run.executor, run.started_at)
            else:
                site.history.note(self._record_of(site, run, outcome, trace, lines))
        site.waits.end(message.id)

    def _record_of(
        self, site: Site, run: Run, outcome: Outcome, trace: str, lines: tuple[str, ...]
    ) -> journal.Record:
        message, kept, problem, attempts = run.message, b"", "", run.message.attempts
        is_ok = outcome.state == "ok"
        if is_ok and self.keeps_result(run):
            most = self.settings.max_result_bytes
            kept, problem = runner.kept_result(run, outcome.result, site.signer, most)
        if attempts or not is_ok:
            attempts = (*attempts, runner.evidence(run, outcome))[-_ATTEMPTS_KEPT:]
        progress = None if run.teller is None else run.teller.progress()
        details = b""
        if attempts or lines or progress is not None:
            details = history.details_of(trace, attempts, progress, lines)
        return history.record_of(
            message,
            _ENDS[outcome.state],
            run.executor,
            started_at=run.started_at,
            reason=problem or outcome.reason,
            error=runner.describe(outcome.error) if outcome.error else "",
            details=details,
            result=kept,
        )

    def teller_of(self, run: Run) -> Teller:
        """Return what tells the progress of a run; seen outside of spoolers and mules alone."""
        if run.executor != TaskExecutor.RUNTIME:
            site = self.require_site(run.spool)
            if site.inflight.place is not None:
                with contextlib.suppress(HomeError):  # a full disk mustn't fail the task
                    return Teller(site.board.begin_telling(site.inflight.place, run.message.id))
        return Teller(None)

    def keeps_result(self, run: Run) -> bool:
        """Tell whether what a run returned is kept: by its call, its task, or the setting."""
        wanted = run.message.store_result
        if wanted is None and run.spec is not None:
            wanted = run.spec.store_result
        return self.settings.store_results if wanted is None else wanted

    def remember_letter(self, site: Site, message: Message, executor: int, state: int) -> None:
        """Write a message that was buried without a run into the history; wake who waits for it."""
        letter = None
        with contextlib.suppress(OSError):  # what matters is written down
            letter = site.letters.read(message.id)
        if self.settings.history and letter is not None:
            attempts = tuple(Attempt(*attempt.values()) for attempt in letter.attempts)
            record = history.record_of(
                message,
                state,
                executor,
                reason=letter.reason,
                error=letter.error,
                details=history.details_of(letter.traceback, attempts, None, ()),
            )
            if attempts:
                record = record._replace(started_at=attempts[-1].started_at, pid=attempts[-1].pid)
            site.history.note(record)
        site.waits.end(message.id)

    def remember_cancelled(self, site: Site, message: Message, record: inflight.Record) -> None:
        """Write a message into the history whose process was killed to cancel it."""
        reason = "cancelled: its process was killed"
        cancelling.note(site, message, reason, keep=self.settings.history, record=record)
        site.waits.end(message.id)

    def expire(self, site: Site, message: Message, executor: int, spool: str) -> None:
        """End a message that wasn't started in time."""
        self.bury(site, message, None, "expired", spool)
        self.close(site, message, executor, inflight.EXPIRED)
        self.remember_letter(site, message, executor, inflight.EXPIRED)
        self.pump_if_any(site, spool)
        logger.warning(
            "Task %s %s expired %.1f s ago: it isn't started",
            message.task,
            message.id,
            time.time() - message.expires_at,
            extra={"action": "expired", "task": message.task, "task_id": message.id},
        )

    # moving on

    def wake(self, site: Site, spool: str) -> None:
        """Wake the spoolers of a directory: ours by a signal, another instance's by its FIFO.

        One that is in its handler gets word instead: uWSGI counts signals, and would scan as often.
        """
        if site.home.is_paused(spool):
            return  # resume() wakes them
        if not self.server.wake(spool, site.inflight.leave_word):
            site.home.wake_timekeeper(SPOOL)
        elif site.home.note_activity():
            site.home.wake_timekeeper(ACTIVE)

    def pump(self, site: Site, spool: str, *, swap: bool = True) -> None:
        """Let the most urgent prioritised tasks of a spool in, one per spooler process."""
        if site.pump(spool, self._window(spool), swap=swap):
            self.wake(site, spool)

    def take_turn(self, site: Site, spool: str, message: Message) -> None:
        """Let a message into its spool that has become ready, if it is its turn."""
        if site.has_turn(spool, self._window(spool), message.id, message.priority or 0.0):
            self.pump(site, spool)

    def _window(self, spool: str) -> int:
        return max(1, len(self.server.spooler_pids(spool)))

    def pump_if_any(self, site: Site, spool: str) -> None:
        """Pump where prioritised tasks wait; costs nothing where none do."""
        if spool and site.home.priorities_wait():
            try:
                self.pump(site, spool)
            except Exception:  # the timekeeper pumps too
                logger.exception("The prioritised tasks of %s wait for the timekeeper", spool)
