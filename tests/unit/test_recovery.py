"""What a death left behind: crashed or interrupted, made good once, and bounded."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from tests.unit.deaths import NO_PID, dies, instance, reasons, scan, waiting, write
from uwsgi_tasks import engine, handlers, inflight
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.inflight import Instance
from uwsgi_tasks.model import SPOOL_OK, Limits, TaskExecutor, TaskSpec

RUNS: list[object] = []


@pytest.fixture(autouse=True)
def registered(spool):
    RUNS.clear()
    engine.registry.add(TaskSpec("app.task", lambda *args: RUNS.append(args)))
    os.chdir(spool)
    handlers._state.update(spool=spool, started=0, keeping_time=0)


# crashed or interrupted


@pytest.mark.parametrize(
    ("marked", "of", "is_a_reload", "stopped", "interrupted"),
    [
        (None, "same", False, None, False),  # its process alone died
        (None, "same", True, None, False),  # … in a server that was reloaded before it began
        (0.0, "same", False, None, True),  # it was told to end
        (-4.0, "same", False, None, True),  # … just before it began
        (-6.0, "same", False, None, False),  # … long before: it isn't about this run
        (None, "earlier", True, None, True),  # the master has reloaded since
        (None, "earlier", False, None, False),  # the master's pid was used again
        (None, "other", False, None, False),  # everything was killed, and started anew
        (None, "other", True, None, False),
        (None, "other", False, 1.0, True),  # the old server was stopped after it began
        (None, "other", False, -1.0, False),  # … went on after a stop before it began
        (None, "same", False, 1.0, False),  # one worker ended in order: no stop of the server
    ],
)
def test_given_a_death_when_looked_at_then_it_is_a_crash_or_an_interruption(
    here, spool, monkeypatch, marked, of, is_a_reload, stopped, interrupted
):
    site = here(is_a_reload)
    now = instance()
    whose = {"same": now, "earlier": Instance(now.master, 5), "other": Instance(99, 5)}[of]
    message = a_message()
    record = dies(site, message, of=whose)
    at = 4096 + record.place * 128 + 56
    if marked is not None:
        site.inflight._map[at : at + 8] = struct.pack("<d", record.started_at + marked)
    if stopped is not None:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: record.started_at + stopped)
            site.inflight.note_stop(whose)
    write(site, spool, message)
    assert scan(site, spool, message) == SPOOL_OK
    (again,) = waiting(site)
    assert (again.crashes, again.interruptions) == (int(not interrupted), int(interrupted))
    counted = site.home.counters()
    assert (counted["crashed"], counted["interrupted"]) == (int(not interrupted), int(interrupted))


def test_given_a_death_when_it_is_made_good_then_the_next_delivery_tells_of_it(here, spool):
    site = here()
    message = a_message(args=[1], attempt=2, at=5.0)
    record = dies(site, message)
    write(site, spool, message)
    scan(site, spool, message)
    (again,) = waiting(site)
    assert (again.id, again.payload) == (message.id, message.payload)
    assert (again.delivery, again.attempt, again.at) == (2, 2, 0.0)
    (evidence,) = again.attempts
    assert (evidence.number, evidence.pid, evidence.error) == (2, NO_PID, "its process died")
    assert evidence.started_at == record.started_at


def test_given_a_death_when_it_is_made_good_then_it_runs_again_once_and_the_record_is_free(
    here, spool
):
    site = here()
    message = a_message(args=[1])
    dies(site, message)
    write(site, spool, message)
    scan(site, spool, message)
    assert (RUNS, [record.id for record in site.inflight.records() if record.state]) == ([], [])
    scan(site, spool, message._replace(delivery=2))
    assert ([(1,)], site.inflight.over_at(message.id)[:2]) == (RUNS, (2, inflight.OK))


@pytest.mark.parametrize(("crashes", "wait"), [(0, 0.0), (1, 1.0), (2, 2.0), (4, 8.0), (9, 60.0)])
def test_given_crashes_before_when_it_crashed_again_then_it_waits_that_long(
    here, spool, crashes, wait
):
    site = here(settings={"max_crashes": 99})
    message = a_message(crashes=crashes)
    dies(site, message)
    write(site, spool, message)
    before = time.time()
    scan(site, spool, message)
    if not wait:
        assert Path(spool, to_spool.file_name(message.id, 2)).exists()
    else:
        assert before + wait <= site.store.next_due() <= time.time() + wait


def test_given_an_interruption_when_made_good_then_it_runs_at_once_however_often_it_crashed(
    here, spool
):
    site = here(is_a_reload=True)
    message = a_message(crashes=2, interruptions=50)
    dies(site, message, of=Instance(instance().master, 5))
    write(site, spool, message)
    scan(site, spool, message)
    assert Path(spool, to_spool.file_name(message.id, 2)).exists()


# bounded


@pytest.mark.parametrize(
    ("setting", "option", "before", "dead"),
    [
        (3, None, 1, False),
        (3, None, 2, True),
        (1, None, 0, True),
        (3, 5, 3, False),
        (3, 5, 4, True),
        (3, 1, 0, True),
    ],
)
def test_given_max_crashes_when_reached_then_it_is_dead_with_its_evidence(
    here, spool, setting, option, before, dead
):
    site = here(settings={"max_crashes": setting})
    engine.registry.add(TaskSpec("app.task", print, max_crashes=option))
    message = a_message(crashes=before)
    dies(site, message)
    write(site, spool, message)
    assert scan(site, spool, message) == SPOOL_OK
    most = option or setting
    expected = [f"its process died {most} times (max_crashes={most})"]
    assert reasons(site) == (expected if dead else [])
    assert len(waiting(site)) == (not dead)
    if dead:
        (letter,) = site.letters.list()
        assert [attempt["error"] for attempt in letter.attempts] == ["its process died"]
        assert site.inflight.over_at(message.id)[:2] == (1, inflight.DEAD)


@pytest.mark.parametrize(("before", "dead"), [(3, False), (4, True)])
def test_given_max_interruptions_when_reached_then_it_is_dead(here, spool, before, dead):
    site = here(is_a_reload=True, settings={"max_interruptions": 5})
    message = a_message(interruptions=before, crashes=2)
    dies(site, message, of=Instance(instance().master, 5))
    write(site, spool, message)
    scan(site, spool, message)
    expected = ["it was interrupted 5 times (max_interruptions=5)"]
    assert reasons(site) == (expected if dead else [])


@pytest.mark.parametrize(
    ("limits", "harakiri", "ago", "told"),
    [
        (Limits(timeout=5.0), 0, 6.0, "longer than timeout=5 s"),
        (Limits(timeout=5.0), 0, 4.0, "its process died"),
        (None, 30, 31.0, "longer than spooler-harakiri=30 s"),
        (None, 30, 29.0, "its process died"),
        (Limits(timeout=5.0), 3, 6.0, "longer than timeout=5 s"),
    ],
)
def test_given_a_task_that_ran_too_long_when_it_was_killed_then_the_evidence_says_so(
    here, spool, limits, harakiri, ago, told
):
    site = here(**({"spooler_harakiri": str(harakiri).encode()} if harakiri else {}))
    message = a_message(limits=limits)
    dies(site, message, ago=ago)
    write(site, spool, message)
    scan(site, spool, message)
    assert told in waiting(site)[0].attempts[0].error


def test_given_many_attempts_before_when_it_crashed_then_twenty_are_kept(here, spool):
    site = here(settings={"max_crashes": 99})
    message = a_message()
    for _ in range(25):
        dies(site, message)
        write(site, spool, message)
        scan(site, spool, message)
        (message,) = waiting(site)
        Path(spool, to_spool.file_name(message.id, message.delivery)).unlink(missing_ok=True)
    assert (len(message.attempts), message.crashes, message.delivery) == (20, 25, 26)


# steps that a death interrupted


def test_given_a_retry_that_was_written_when_its_process_died_then_it_is_not_written_twice(
    here, spool
):
    site = here()
    message = a_message()
    write(site, spool, message)
    site.wait(message._replace(delivery=2, attempt=2), 9e9, TaskExecutor.SPOOLER, spool)
    dies(site, message)
    assert scan(site, spool, message) == SPOOL_OK
    (again,) = waiting(site)
    assert (again.attempt, again.crashes) == (2, 0)
    assert site.inflight.over_at(message.id)[:2] == (1, inflight.AGAIN)


def test_given_a_dead_letter_that_was_written_when_its_process_died_then_it_is_dead(here, spool):
    site = here()
    message = a_message()
    write(site, spool, message)
    dies(site, message)
    engine.current().bury(site, message, None, "why", spool)
    assert scan(site, spool, message) == SPOOL_OK
    assert (reasons(site), waiting(site)) == (["why"], [])
    assert site.inflight.over_at(message.id)[:2] == (1, inflight.DEAD)


def test_given_a_letter_of_an_earlier_life_when_its_process_died_then_it_runs_again(here, spool):
    site = here()
    message = a_message(delivery=2)
    engine.current().bury(site, message, None, "why", spool)
    write(site, spool, message)
    dies(site, message)
    scan(site, spool, message)
    assert [again.delivery for again in waiting(site)] == [3]


def test_given_a_checkpoint_when_its_process_died_then_the_next_delivery_has_it_and_it_is_forgotten(
    here, spool
):
    site = here()
    message = a_message(buffer=b"before")
    dies(site, message)
    write(site, spool, message)
    site.store.save_checkpoint(message.id, b"saved")
    scan(site, spool, message)
    assert waiting(site)[0].buffer == b"saved"
    assert site.store.checkpoint(message.id) is None
