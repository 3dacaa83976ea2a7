"""What is known of tasks, for whoever shows it: the one read model of this home.

Works from any process that reaches the home, also when the server is down. Each call reads: spool
files, what waits, what is in hand, dead letters, and the history. Nothing is changed by reading.

Example:
    >>> from uwsgi_tasks import observe
    >>> for run in observe.runs(state="dead", limit=10):  # doctest: +SKIP
    ...     print(run.id, run.task, run.reason)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import calls, engine, finding, inflight, journal, runinfo, runner, wire
from .errors import NotAvailable
from .executors.spooler import FILE_PREFIX, content_of
from .model import is_id
from .runinfo import AttemptInfo, ProgressInfo, RunInfo
from .site import Site

__all__ = [
    "STATES",
    "AttemptInfo",
    "ProgressInfo",
    "RunInfo",
    "Status",
    "result",
    "run",
    "runs",
    "status",
]

STATES = ("queued", "scheduled", "running", "ok", "dead", "expired", "cancelled")
"""The states of a run: three that pass, then the four final ones."""


class Status(NamedTuple):
    """How things stand in a home.

    Attributes:
        home: Its path.
        paused: Taking tasks is paused.
        queued: Tasks that may run now and don't yet.
        scheduled: Tasks that wait for their time.
        running: Tasks in hand.
        finished: How many ended in each final state, as far as the history goes back.
        dead_letters: How many lie there.
        history_from: Epoch seconds of the oldest finished run that is known; ``None``: none is.
        counters: As ``control.counters()`` gives them.
    """

    home: str
    paused: bool
    queued: int
    scheduled: int
    running: int
    finished: dict[str, int]
    dead_letters: int
    history_from: float | None
    counters: dict[str, int]


def status() -> Status:
    """Return how things stand.

    Raises:
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    site, now = _site(), time.time()
    _fold(site)
    busy = [record for record in site.inflight.busy() if is_id(record.id)]
    files = sum(finding.count_files(spool) for spool in calls.spools_of(site))
    in_files = sum(record.kind == inflight.SPOOLER for record in busy)
    ready, later = site.store.count_waiting(now) if site.has_store() else (0, 0)
    ended = site.store.counts() if site.has_store() else {}
    return Status(
        site.home.path,
        site.home.is_paused(),
        max(0, files - in_files) + ready,
        later,
        len(busy),
        {word: ended.get(state, 0) for state, word in journal.FINAL_STATES.items()},
        site.letters.count(),
        site.store.oldest() if site.has_store() else None,
        site.home.counters(),
    )


def runs(
    state: str | None = None,
    task: str | None = None,
    queue: str | None = None,
    since: float | None = None,
    limit: int = 100,
) -> list[RunInfo]:
    """Return runs: those that run, then those that wait, then the finished, the latest first.

    Args:
        state: One of ``STATES``; by default all.
        task: Name of the task.
        queue: Label of the queue.
        since: Epoch seconds: what was called, or finished, from then on.
        limit: How many at most.

    Raises:
        ValueError: There is no such state.
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    if state is not None and state not in STATES:
        raise ValueError(f"state={state!r}: it takes one of {', '.join(STATES)}")
    site, found = _site(), dict[str, RunInfo]()
    wanted = _Wanted(state, task, queue, since)
    if state is None or state not in finding.FINAL:
        for info in itertools.chain(_running(site), _waiting(site), _lying(site)):
            if len(found) >= limit:
                break
            if wanted.has(info):
                found.setdefault(info.id, info)
    if len(found) < limit and (state is None or state in finding.FINAL):
        _fold(site)
        for info in _finished(site, wanted, limit):
            found.setdefault(info.id, info)
    return list(found.values())[:limit]


def run(ident: str, *, arguments: bool = False) -> RunInfo:
    """Return all that is known of one id.

    Args:
        ident: The id.
        arguments: Show them: that loads what was sent, which runs code of the arguments' classes.

    Raises:
        KeyError: Nothing is known of it, or not any more.
        NotAvailable: There is no home here; see ``configure(home=…)``.
    """
    site = _site()
    info = _found(site, ident) if is_id(ident) else None
    if info is None:
        raise KeyError(f"Nothing is known of {ident!r}, or not any more")
    if arguments:
        message = finding.message_of(site, ident, calls.spools_of(site))
        if message is not None:
            info = info._replace(arguments=runner.shown_arguments(message))
    return info


def result(ident: str) -> Any:
    """Return the stored result of a run that is over.

    Raises:
        ValueError: That is no id.
        TaskFailed: It is dead, expired or cancelled.
        ResultTimeout: It hasn't ended.
        NotAvailable: No result is stored, with the reason.
    """
    return calls.get(ident).result(timeout=0)


class _Wanted(NamedTuple):
    """What is asked for."""

    state: str | None
    task: str | None
    queue: str | None
    since: float | None

    def has(self, info: RunInfo) -> bool:
        """Tell whether a run is among it."""
        return (
            self.state in (None, info.state)
            and self.task in (None, info.task)
            and self.queue in (None, info.queue)
            and (self.since is None or (info.finished_at or info.created_at) >= self.since)
        )


def _site() -> Site:
    return engine.current().require_site()


def _fold(site: Site) -> None:
    """Take what the journals have into the store, so that one place tells of all that ended."""
    if site.history.is_any():
        with contextlib.suppress(NotAvailable):  # a full disk: what is there is shown
            site.history.fold()


def _found(site: Site, ident: str) -> RunInfo | None:
    """Return what is known of one id, from the place that knows best."""
    place = finding.place_of(site, ident, calls.spools_of(site))
    if place.state == "gone":
        return None
    if place.state not in finding.FINAL:
        return _unfinished(site, ident, place)
    record = site.history.find(ident)
    letter = site.letters.read(ident)
    if record is not None and journal.FINAL_STATES[record.state] == place.state:
        info = runinfo.of_record(record)
        return info._replace(traceback=letter.traceback) if letter else info
    if letter is not None:
        return runinfo.of_letter(letter, place.state)
    # its process was killed before it could write more down
    return RunInfo(
        ident, "", place.state, created_at=runinfo.called_at(ident), reason="only that is known"
    )


def _unfinished(site: Site, ident: str, place: finding.Place) -> RunInfo:
    record = finding.in_hand(site, ident)
    message = finding.message_of(site, ident, calls.spools_of(site))
    if record is not None:
        return runinfo.of_hand(site, record, message)
    spool = os.path.dirname(place.path)
    if message is None:
        return RunInfo(ident, "", place.state, created_at=runinfo.called_at(ident), spool=spool)
    return runinfo.of_message(message, place.state, spool=spool)


def _running(site: Site) -> Iterator[RunInfo]:
    spools = calls.spools_of(site)
    for record in site.inflight.busy():
        if is_id(record.id):
            yield runinfo.of_hand(site, record, finding.message_of(site, record.id, spools))


def _waiting(site: Site) -> Iterator[RunInfo]:
    now = time.time()
    rows = site.store.outside(_MOST_WAITING) if site.has_store() else []
    for ident, _, due, _, executor, spool, envelope in rows:
        message = finding.unpacked(site, envelope)
        state = "scheduled" if due > now else "queued"
        if message is None:
            yield RunInfo(ident, "", state, created_at=runinfo.called_at(ident), reason=_UNREADABLE)
        else:
            info = runinfo.of_message(message, state, spool=spool, executor=executor)
            yield info._replace(due_at=due if due > message.created_at else None)


def _lying(site: Site) -> Iterator[RunInfo]:
    for spool in calls.spools_of(site):
        for path in finding.files_of(spool, _MOST_WAITING):
            ident, _, delivery = os.path.basename(path)[len(FILE_PREFIX) :].rpartition(".")
            over = site.inflight.over_at(ident) if is_id(ident) else None
            if over is not None and delivery.isdigit() and over[0] >= int(delivery):
                continue  # it ended, and its file goes in a moment
            content = content_of(path)
            message = finding.unpacked(site, wire.envelope_of_file(content)) if content else None
            if message is not None:
                yield runinfo.of_message(message, "queued", spool=spool)
            elif content:
                called = runinfo.called_at(ident) if is_id(ident) else 0.0
                name = os.path.basename(path)
                yield RunInfo(ident or name, "", "queued", created_at=called, reason=_UNREADABLE)


def _finished(site: Site, wanted: _Wanted, limit: int) -> list[RunInfo]:
    states = [n for n, word in journal.FINAL_STATES.items() if wanted.state in (None, word)]
    found: list[RunInfo] = []
    if site.has_store():
        asked = states if wanted.state else []
        rows = site.store.runs(asked, wanted.task, wanted.queue, wanted.since, limit)
        found = [runinfo.of_record(record) for record in rows]
    if wanted.state in (None, "dead", "expired") and not engine.current().settings.history:
        for letter in site.letters.list():
            state = "expired" if letter.reason == finding.EXPIRED_REASON else "dead"
            found += [info for info in [runinfo.of_letter(letter, state)] if wanted.has(info)]
    return sorted(found, key=lambda info: -(info.finished_at or 0.0))


_MOST_WAITING = 100_000
_UNREADABLE = "it can't be read: another key, or no message"
