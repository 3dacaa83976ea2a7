"""The timekeeper's tick: what is due moves on, schedules fire where they belong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from tests.support.schedules import a_schedule
from uwsgi_tasks import engine, targets, timekeeper, wire
from uwsgi_tasks.model import TaskExecutor
from uwsgi_tasks.timekeeper import Timekeeper


@pytest.fixture
def keeper():
    """Make the timekeeper of the present engine."""

    def make(**signals):
        this = engine.current()
        return Timekeeper(this, this.site(), signals)

    return make


def schedule(target="", **fields):
    this = engine.current()
    given = {"incarnation": this.server.incarnation, "signer": this.site().signer, **fields}
    return a_schedule(target=target, **given)


def files(spool):
    return sorted(Path(spool).glob("uwsgi_spoolfile_on_*"))


def messages(server, spool):
    signer = engine.current().site().signer
    found = [wire.envelope_of_file(path.read_bytes()) for path in files(spool)]
    return [wire.unpack(data, signer) for data in [*found, *(data for data, _ in server.queue)]]


@pytest.mark.parametrize("target", ["", "spooler", "mule", "mule2", "farm_farm"])
def test_given_a_due_schedule_when_it_ticks_then_a_message_goes_to_its_target(
    fake, keeper, spool, target
):
    server = fake(mules=2)
    this = engine.current()
    this.site().home.announce_mule(2, this.server.incarnation)
    this.site().store.start(schedule(target))
    keeper().tick(100.0)
    (message,) = messages(server, spool)
    assert (message.task, wire.load_arguments(message)) == ("app.timer", ((4711,), {}))
    asked = [where for _, where in server.queue]
    assert asked == {"mule": [None], "mule2": [2], "farm_farm": [b"farm"]}.get(target, [])


def test_given_all_mules_as_target_when_it_ticks_then_each_gets_a_message(fake, keeper, spool):
    server, this = fake(mules=2), engine.current()
    for number in (1, 2):
        this.site().home.announce_mule(number, this.server.incarnation)
    this.site().store.start(schedule("mules"))
    keeper().tick(100.0)
    assert [where for _, where in server.queue] == [1, 2]


def test_given_a_worker_as_target_when_it_ticks_then_a_row_waits_and_its_signal_is_raised(
    fake, keeper
):
    server = fake()
    site = engine.current().site()
    site.store.start(schedule("worker"))
    keeper(worker=255).tick(100.0)
    assert server.raised == [255]
    firing = site.store.take_firing("worker")
    assert wire.unpack(firing.envelope, site.signer).task == "app.timer"


def test_given_a_worker_target_without_signal_when_it_ticks_then_one_error_names_the_cure(
    fake, keeper, caplog
):
    fake()
    engine.current().site().store.start(schedule("workers"))
    found = keeper()
    found.tick(100.0)
    found.tick(110.0)
    errors = [record for record in caplog.records if "shared-import" in record.getMessage()]
    assert len(errors) == 1


def test_given_a_schedule_that_is_not_due_when_it_ticks_then_it_does_not_fire(fake, keeper, spool):
    fake()
    engine.current().site().store.start(schedule())
    keeper().tick(99.0)
    assert files(spool) == []


def test_given_missed_moments_when_it_ticks_then_it_fires_once_and_keeps_its_phase(
    fake, keeper, spool
):
    fake()
    store = engine.current().site().store
    store.start(schedule())
    keeper().tick(157.0)
    assert (len(files(spool)), store.next_schedule()) == (1, 160.0)


def test_given_iterations_when_it_ticks_for_long_then_it_fires_exactly_so_often(
    fake, keeper, spool
):
    fake()
    engine.current().site().store.start(schedule(iterations=3, options={"overlap": "allow"}))
    found = keeper()
    for moment in range(90, 300):
        found.tick(float(moment))
    assert len(files(spool)) == 3


def test_given_a_message_that_is_due_when_it_ticks_then_it_enters_the_spool(fake, keeper, spool):
    fake()
    engine.current().site().wait(a_message(), 100.0, TaskExecutor.SPOOLER, spool)
    keeper().tick(100.0)
    assert len(files(spool)) == 1


def test_given_nothing_when_it_ticks_then_it_sleeps_a_minute_at_most(fake, keeper):
    fake()
    assert 59 < keeper().tick(time.time()) <= 60


def test_given_a_later_message_when_it_ticks_then_it_sleeps_until_then(fake, keeper, spool):
    fake()
    due = time.time() + 30
    engine.current().site().wait(a_message(), due, TaskExecutor.SPOOLER, spool)
    assert 29 < keeper().tick(time.time()) <= 30


def test_given_a_tick_that_fails_when_it_goes_on_then_it_is_told_and_tried_again(
    fake, keeper, monkeypatch, caplog
):
    fake()
    found = keeper()
    monkeypatch.setattr(found.site, "promote_batch", None)
    assert found._tick_safely() == timekeeper._AFTER_ERROR_S
    assert "it tries again" in caplog.text


def fire(target, name):
    site, message = engine.current().site(), a_message(name)
    site.store.add_firing(target, message.id, wire.pack(message, site.signer))


def handled(target, seen):
    ran = []
    this = engine.current()
    targets.handle_signal(this.site(), target, seen, ran.append)
    return [message.task for message in ran]


def test_given_one_firing_for_any_worker_when_two_see_the_signal_then_one_runs_it(fake):
    fake()
    fire("worker", "app.timer")
    assert [handled("worker", {}), handled("worker", {})] == [["app.timer"], []]


def test_given_one_firing_for_every_worker_when_two_see_the_signal_then_both_run_it(fake):
    fake()
    fire("workers", "app.timer")
    first, second = {}, {}
    assert [handled("workers", seen) for seen in (first, second, first)] == [
        ["app.timer"],
        ["app.timer"],
        [],
    ]


def test_given_merged_signals_when_one_arrives_then_all_that_fired_runs(fake):
    fake()
    for name in ("a", "b", "c"):
        fire("worker", name)
    assert handled("worker", {}) == ["a", "b", "c"]
