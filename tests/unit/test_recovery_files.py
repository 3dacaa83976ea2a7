"""Files that come again, records that tell of them, and what dead mules had in hand."""

from __future__ import annotations

import os
import struct
import time

import pytest

from tests.support.messages import a_message
from tests.unit.children import Child, forks
from tests.unit.deaths import dies, instance, reasons, scan, waiting, write
from uwsgi_tasks import engine, handlers, inflight, recovery, wire
from uwsgi_tasks.inflight import BEGUN, MULE, OVER, SPOOLER
from uwsgi_tasks.model import SPOOL_OK, SPOOL_RETRY, TaskExecutor, TaskSpec

RUNS: list[object] = []


@pytest.fixture(autouse=True)
def registered(spool):
    RUNS.clear()
    engine.registry.add(TaskSpec("app.task", lambda *args: RUNS.append(args)))
    os.chdir(spool)
    handlers._state.update(spool=spool, started=0, keeping_time=0)


# a file and its records


@forks
def test_given_a_living_process_that_has_it_in_hand_when_its_file_comes_then_it_stays(here, spool):
    site = here()
    message = a_message()
    write(site, spool, message)

    def runs():
        site.inflight.claim(SPOOLER, 0, instance())
        site.inflight.begin(message.id, 1)

    with Child(runs):
        assert (scan(site, spool, message), RUNS) == (SPOOL_RETRY, [])


def test_given_a_record_of_an_earlier_delivery_when_a_later_file_comes_then_that_runs(here, spool):
    site = here()
    message = a_message(delivery=3)
    dies(site, message._replace(delivery=2))
    write(site, spool, message)
    assert (scan(site, spool, message), len(RUNS)) == (SPOOL_OK, 1)
    assert waiting(site) == []


def test_given_a_record_of_a_later_delivery_when_an_earlier_file_comes_then_it_is_removed(
    here, spool
):
    site = here()
    message = a_message()
    dies(site, message._replace(delivery=2))
    write(site, spool, message)
    assert (scan(site, spool, message), RUNS) == (SPOOL_OK, [])
    assert site.inflight.records()[0].state == BEGUN


@pytest.mark.parametrize("state", [inflight.OK, inflight.DEAD, inflight.EXPIRED, inflight.RETRIED])
def test_given_a_message_that_is_over_when_its_file_comes_again_then_it_is_removed_and_told(
    here, spool, caplog, state
):
    site = here()
    message = a_message()
    site.inflight.note_over(message.id, 1, state)
    write(site, spool, message)
    assert (scan(site, spool, message), RUNS) == (SPOOL_OK, [])
    assert inflight.STATES[state] in caplog.text
    assert site.home.counters()["refused"] == 1


def test_given_a_later_delivery_than_is_over_when_its_file_comes_then_it_runs(here, spool):
    site = here()
    message = a_message(delivery=2)
    site.inflight.note_over(message.id, 1, inflight.RETRIED)
    write(site, spool, message)
    assert (scan(site, spool, message), len(RUNS)) == (SPOOL_OK, 1)


def come_again(site, spool, message):
    """Let a file come that uWSGI can't remove."""
    path = write(site, spool, message)
    body = wire.envelope_of_file(path.read_bytes())
    return handlers.on_spool({"spooler_task_name": path.name, wire.MARK: b"1", "body": body})


def test_given_a_file_that_cannot_be_removed_when_it_comes_often_then_it_is_reported_once(
    here, spool, caplog
):
    site = here()
    message = a_message()
    site.inflight.note_over(message.id, 1, inflight.OK)
    answers = [come_again(site, spool, message) for _ in range(6)]
    assert answers == [SPOOL_OK, SPOOL_OK, *[SPOOL_RETRY] * 4]
    told = [record for record in caplog.records if "can't be removed" in record.getMessage()]
    assert (len(told), site.home.counters()["passed_over"], RUNS) == (1, 1, [])


def test_given_a_directory_that_cannot_be_written_to_when_it_comes_then_uwsgi_is_not_let_through(
    here, spool, monkeypatch
):
    site = here()
    message = a_message()
    site.inflight.note_over(message.id, 1, inflight.OK)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert come_again(site, spool, message) == SPOOL_RETRY


def test_given_files_that_were_passed_over_when_a_process_starts_then_it_knows_them(here, spool):
    site = here()
    message = a_message()
    site.store.pass_over(message.id, 1, f"{spool}/x")
    recovery.load_passed_over(site)
    assert (come_again(site, spool, message), RUNS) == (SPOOL_RETRY, [])


def test_given_a_file_that_can_be_removed_again_when_cleaned_then_it_is_and_stays_over(here, spool):
    site = here()
    message = a_message()
    path = write(site, spool, message)
    site.store.pass_over(message.id, 1, str(path))
    recovery.forget_lost_files(site, [spool])
    assert (path.exists(), site.store.passed_over()) == (False, [])
    assert (come_again(site, spool, message), RUNS) == (SPOOL_OK, [])


@pytest.mark.parametrize(
    ("ago", "there", "kind", "kept"),
    [
        (601, False, SPOOLER, False),
        (601, True, SPOOLER, True),
        (599, False, SPOOLER, True),
        (601, False, MULE, True),
    ],
)
def test_given_a_record_of_a_dead_process_when_cleaned_then_it_goes_where_its_file_is_long_gone(
    here, spool, ago, there, kind, kept
):
    site = here()
    message = a_message()
    dies(site, message, kind=kind, ago=ago)
    if there:
        write(site, spool, message)
    recovery.forget_lost_files(site, [spool])
    assert (site.inflight.records()[0].state == BEGUN) is kept


@pytest.mark.parametrize("cancelled", [False, True])
def test_given_a_record_whose_file_was_taken_back_when_cleaned_then_it_stays_while_its_row_waits(
    here, spool, cancelled
):
    site = here()
    message = a_message(priority=5.0)
    dies(site, message, ago=601)
    site.wait(message, 0.0, TaskExecutor.SPOOLER, spool)
    if cancelled:
        site.store.cancel(message.id)
    recovery.forget_lost_files(site, [spool])
    assert (site.inflight.records()[0].state == BEGUN) is not cancelled


@pytest.mark.parametrize(
    ("how", "died"), [("crashed", True), ("told to end", False), ("over", False), ("", False)]
)
def test_given_a_file_of_the_old_release_when_its_reader_died_then_it_is_not_read_again(
    here, how, died
):
    site = here()
    message = a_message()
    if how:
        record = dies(site, message)
        at = 4096 + record.place * 128
        if how == "told to end":
            site.inflight._map[at + 56 : at + 64] = struct.pack("<d", time.time())
        if how == "over":
            site.inflight._map[at + 48] = OVER
    assert recovery.died_in(engine.current(), site, message.id) is died
    assert BEGUN not in [record.state for record in site.inflight.records()]


# mules


def in_a_mule(site, message, number=1):
    return dies(site, message, MULE, envelope=wire.pack(message, site.signer), number=number)


@pytest.mark.parametrize(("announced", "mule"), [(True, "int:1"), (False, "")])
def test_given_a_mule_that_died_in_a_task_when_recovered_then_it_waits_for_that_mule_if_it_is_there(
    here, announced, mule
):
    site = here(mules=1)
    this, message = engine.current(), a_message(args=[1])
    in_a_mule(site, message)
    if announced:
        site.home.announce_mule(1, this.server.incarnation)
    recovery.recover_mules(this, site)
    (row,) = site.store.due(9e9, 9)
    assert (row.id, row.delivery, row.executor, row.mule) == (
        message.id,
        2,
        TaskExecutor.MULE,
        mule,
    )
    assert waiting(site)[0].crashes == 1
    recovery.recover_mules(this, site)
    assert len(site.store.due(9e9, 9)) == 1


def test_given_a_mule_that_died_too_often_when_recovered_then_the_task_is_dead(here):
    site = here(mules=1)
    in_a_mule(site, a_message(crashes=2))
    recovery.recover_mules(engine.current(), site)
    assert (reasons(site), waiting(site)) == (
        ["its process died 3 times (max_crashes=3)"],
        [],
    )


def test_given_a_mule_that_died_after_it_noted_the_end_when_recovered_then_nothing_runs_again(here):
    site = here(mules=1)
    message = a_message()
    in_a_mule(site, message)
    site.inflight.note_over(message.id, 1, inflight.OK)
    recovery.recover_mules(engine.current(), site)
    assert (waiting(site), reasons(site)) == ([], [])
    assert site.inflight.records()[0].state != BEGUN


@forks
def test_given_a_mule_that_lives_when_recovered_then_its_task_is_left_alone(here):
    site = here(mules=1)
    message = a_message()

    def runs():
        site.inflight.claim(MULE, 1, instance())
        site.inflight.begin(message.id, 1, wire.pack(message, site.signer))

    with Child(runs):
        recovery.recover_mules(engine.current(), site)
        assert site.inflight.records()[0].state == BEGUN
    recovery.recover_mules(engine.current(), site)
    assert [again.delivery for again in waiting(site)] == [2]


@pytest.mark.parametrize("hand", [b"", b"garbage", b"UWT\x01forged"])
def test_given_a_hand_that_cannot_be_read_when_recovered_then_it_is_told_and_cleared(
    here, caplog, hand
):
    site = here(mules=1)
    dies(site, a_message(), MULE, envelope=hand, number=7)
    recovery.recover_mules(engine.current(), site)
    assert "mule 7 had in hand can't be read" in caplog.text
    assert site.inflight.records()[0].state != BEGUN


def test_given_a_hand_of_another_message_when_recovered_then_nothing_of_it_runs(here):
    site = here(mules=1)
    dies(site, a_message(), MULE, envelope=wire.pack(a_message(), site.signer))
    recovery.recover_mules(engine.current(), site)
    assert (waiting(site), site.inflight.records()[0].state != BEGUN) == ([], True)
