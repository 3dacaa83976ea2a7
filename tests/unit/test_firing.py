"""Firing: what is due is submitted once, by the rules of what was missed and what overlaps."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.messages import a_message
from tests.support.schedules import a_schedule
from uwsgi_tasks import engine, firing, timers, wire
from uwsgi_tasks.firing import Firing
from uwsgi_tasks.inflight import OK
from uwsgi_tasks.model import TaskExecutor
from uwsgi_tasks.schedule import CronExpression, Every, judge


@pytest.fixture
def world(fake, spool):
    """A fake server, with what fires its schedules and what was submitted."""

    class World:
        def __init__(self):
            self.server = fake()
            self.this = engine.current()
            self.site = self.this.site()
            self.store = self.site.store
            self.firing = Firing(self.this, self.site, {"worker": 255})

        def start(self, *names, **fields):
            for name in names or ("app.timer",):
                given = {"incarnation": self.this.server.incarnation, **fields}
                row = a_schedule(name, self.site.signer, **given)
                self.store.start(row._replace(paused=False))

        def fire(self, now):
            self.firing.fire_due(now)

        def row(self, name="app.timer"):
            return self.store.schedule(name)

        def waiting(self):
            rows = self.store.due(1e12, 10**6)
            return [wire.unpack(row.envelope, self.site.signer) for row in rows]

        def finish_all(self):
            for message in self.waiting():
                self.store.finish(message.id, message.delivery)

    return World()


# exactly once


def test_given_a_due_schedule_when_fired_then_the_row_has_advanced_and_its_message_waits(world):
    world.start()
    world.fire(100.0)
    (message,) = world.waiting()
    row = world.row()
    assert (row.next_at, row.fired, row.last_at, row.last_id) == (110.0, 1, 100.0, message.id)


def test_given_arguments_when_fired_then_the_message_has_them_and_an_id_of_its_own(world):
    world.start(args=(1, "two"), kwargs={"three": 3}, options={"overlap": "allow"})
    world.fire(100.0)
    world.fire(110.0)
    messages = world.waiting()
    assert {wire.load_arguments(m)[0] for m in messages} == {(1, "two")}
    assert wire.load_arguments(messages[0])[1] == {"three": 3}
    assert len({m.id for m in messages}) == 2


def test_given_a_failure_after_the_message_when_fired_again_then_it_is_submitted_once(
    world, monkeypatch
):
    world.start()
    advance, calls = world.store.advance, []

    def failing(rows):
        advance(rows)
        calls.append(rows)
        if len(calls) == 2:
            raise OSError("the disk is full")

    monkeypatch.setattr(world.store, "advance", failing)
    with pytest.raises(OSError, match="full"):
        world.fire(100.0)
    assert (world.waiting(), world.row().fired) == ([], 0)
    world.fire(100.0)
    assert (len(world.waiting()), world.row().fired) == (1, 1)


def test_given_a_thousand_that_are_due_when_fired_then_each_is_submitted_once(world):
    names = [f"app.t{number}" for number in range(1500)]
    world.start(*names)
    world.fire(100.0)
    assert sorted(message.task for message in world.waiting()) == sorted(names)


def test_given_a_template_that_nobody_signed_when_due_then_nothing_runs_and_it_is_told_once(
    world, caplog
):
    world.start()
    forged = world.row()._replace(envelope=b"UWT\1" + bytes(400))
    world.store.start(forged)
    world.fire(100.0)
    world.fire(110.0)
    assert world.waiting() == []
    assert caplog.text.count("can't run") == 1


def test_given_a_prioritised_task_when_fired_then_its_message_keeps_its_priority(world):
    world.start(priority=5.0)
    world.fire(100.0)
    (row,) = world.store.most_urgent(world.this.spools()[0], 9)
    assert row.priority == 5.0


def test_given_prioritised_tasks_that_wait_when_fired_then_it_queues_with_them(world):
    world.site.home.mark_priorities(wait=True)
    world.start()
    world.fire(100.0)
    (row,) = world.store.most_urgent(world.this.spools()[0], 9)
    assert row.priority == 100.0


def test_given_durability_on_disk_when_fired_then_it_is_marked_so(world):
    world.start(on_disk=True)
    world.fire(100.0)
    assert [message.on_disk for message in world.waiting()] == [True]


def test_given_an_expiry_when_fired_then_it_counts_from_the_firing(world):
    world.start(options={"expires": 5.0})
    world.fire(100.0)
    assert world.waiting()[0].expires_at == 105.0


# ends


def test_given_an_end_when_it_is_past_then_it_fires_no_more(world):
    world.start(options={"end": 115.0, "overlap": "allow"})
    for now in range(100, 200):
        world.fire(float(now))
    assert (world.row().fired, bool(world.row().active)) == (2, False)


def test_given_jitter_when_fired_then_the_phase_stays(world):
    world.start(options={"jitter": 5.0})
    world.fire(100.0)
    row = world.row()
    assert row.moment == 110.0
    assert 110.0 <= row.next_at <= 115.0


# what was missed


@pytest.mark.parametrize(
    ("missed", "late", "fires", "passed_over"),
    [
        ("skip", 0, 1, 0),
        ("skip", 59, 1, 5),
        ("skip", 3600, 1, 360),  # the last moment is fresh
        ("once", 3600, 1, 360),
        ("all", 3600, 361, 0),
        ("all", 36000, 1000, 2601),
    ],
)
def test_given_moments_that_were_missed_when_due_then_the_policy_tells_what_follows(
    world, missed, late, fires, passed_over
):
    world.start(options={"missed": missed})
    world.fire(100.0 + late)
    row = world.row()
    assert (len(world.waiting()), row.fired, row.missed) == (fires, fires, passed_over)


@pytest.mark.parametrize(
    ("missed", "fires"), [("skip", 0), ("once", 1), ("all", 3)], ids=["skip", "once", "all"]
)
def test_given_a_daily_one_when_three_days_were_missed_then_the_policy_tells_what_follows(
    world, missed, fires
):
    day = 86400
    world.start(rule=["every", day], options={"missed": missed})
    world.fire(100.0 + 2 * day + 3600)
    assert (world.row().fired, world.row().missed) == (fires, 3 - fires)
    assert world.row().next_at == 100.0 + 3 * day


def test_given_iterations_when_many_were_missed_then_it_fires_no_more_than_those(world):
    world.start(iterations=3, options={"missed": "all"})
    world.fire(500.0)
    assert (world.row().fired, bool(world.row().active)) == (3, False)


# what overlaps


def spool_file(world, message):
    return Path(world.this.spools()[0], f"uwsgi_spoolfile_on_{message.id}.{message.delivery}")


def queued(world):
    """It waits as it was submitted."""


def in_spool(world):
    world.site.promote(1e12, None)


def in_hand(world):
    (message,) = world.waiting()
    world.site.promote(1e12, None)
    world.site.inflight.claim(1, 0, (1, 1))
    world.site.inflight.begin(message.id, 1)


def retried(world):
    (message,) = world.waiting()
    world.site.promote(1e12, None)
    world.site.inflight.note_over(message.id, 1, 2)
    spool_file(world, message).unlink()
    world.site.wait(message._replace(delivery=2), 1e9, TaskExecutor.SPOOLER, world.this.spools()[0])


def over(world):
    (message,) = world.waiting()
    world.site.promote(1e12, None)
    world.site.finish(message)
    world.site.inflight.note_over(message.id, 1, OK)


def over_but_its_file_lies(world):
    (message,) = world.waiting()
    world.site.promote(1e12, None)
    world.site.inflight.note_over(message.id, 1, OK)


@pytest.mark.parametrize("state", [queued, in_spool, in_hand, retried])
@pytest.mark.parametrize(("overlap", "fired"), [("skip", 1), ("queue", 1), ("allow", 2)])
def test_given_a_last_firing_that_is_not_over_when_due_then_the_policy_tells(
    world, state, overlap, fired
):
    world.start(options={"overlap": overlap})
    world.fire(100.0)
    state(world)
    world.fire(110.0)
    row = world.row()
    assert (row.fired, row.skipped) == (fired, int(overlap == "skip"))


@pytest.mark.parametrize("state", [over, over_but_its_file_lies])
@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
def test_given_a_last_firing_that_is_over_when_due_then_it_fires(world, state, overlap):
    world.start(options={"overlap": overlap})
    world.fire(100.0)
    state(world)
    world.fire(110.0)
    assert (world.row().fired, world.row().skipped) == (2, 0)


def test_given_a_skipped_moment_when_counted_then_it_takes_no_iteration(world):
    world.start(iterations=2)
    world.fire(100.0)
    world.fire(110.0)
    assert world.row().iterations == 1


def test_given_one_that_queues_when_the_last_is_over_then_it_fires_soon_and_once(world):
    world.start(options={"overlap": "queue"})
    world.fire(100.0)
    for now in (110.0, 111.0, 125.0, 131.0):
        world.fire(now)
    assert world.row().fired == 1
    world.finish_all()
    for now in (136.0, 137.0):
        world.fire(now)
    assert (world.row().fired, world.row().next_at) == (2, 140.0)


def test_given_a_file_in_hand_when_overlap_is_looked_at_then_no_spool_file_is_opened(
    world, monkeypatch
):
    world.start()
    world.fire(100.0)
    in_spool(world)
    opened, original = [], os.open

    def watched(path, *rest, **more):
        opened.append(str(path))
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    world.fire(110.0)
    assert [path for path in opened if "spoolfile" in path] == []


def test_given_a_worker_that_has_it_in_hand_when_due_then_it_is_skipped(world):
    world.start(target="worker")
    world.fire(100.0)
    world.fire(110.0)
    taken = world.store.take_firing("worker")
    world.fire(120.0)
    world.store.end_firing(taken.seq)
    world.fire(130.0)
    assert (world.row().fired, world.row().skipped) == (2, 2)


# asked for


def test_given_one_that_is_asked_for_when_fired_then_its_moments_stay(world):
    world.start()
    world.store.ask("app.timer", "0000000000000000007-00000000000000aa")
    world.fire(95.0)
    (message,) = world.waiting()
    row = world.row()
    assert message.id == "0000000000000000007-00000000000000aa"
    assert (row.fired, row.next_at, row.asked_id) == (1, 100.0, "")


@pytest.mark.parametrize("change", [{"paused": True}, {"active": False}])
def test_given_one_that_does_not_fire_when_asked_for_then_it_fires_once(world, change):
    world.start()
    world.store.declare([])
    if "paused" in change:
        world.store.pause_schedule("app.timer")
    else:
        world.store.stop("app.timer")
    world.store.ask("app.timer", a_message().id)
    world.fire(500.0)
    world.fire(501.0)
    assert len(world.waiting()) == 1


# workers


def test_given_a_firing_that_a_dead_timekeeper_wrote_when_another_starts_then_it_tells_the_worker(
    world,
):
    world.start(target="worker")
    world.fire(100.0)
    successor = Firing(world.this, world.site, {"worker": 255})
    successor.fire_due(101.0)
    assert world.server.raised == [255, 255]


# the clock


def test_given_a_clock_that_was_set_back_when_fired_then_a_period_goes_on_within_one(world):
    world.start(options={"overlap": "allow"})
    world.fire(10_000.0)
    world.fire(5_000.0)
    assert 5_000.0 < world.row().next_at <= 5_010.0
    assert world.row().next_at % 10 == 0


def test_given_a_clock_that_was_set_back_when_fired_then_a_cron_does_not_fire_again(world):
    world.start(rule=["cron", "* * * * *", "UTC"], next_at=60.0, options={"overlap": "allow"})
    world.fire(60.0)
    for now in range(0, 120, 5):
        world.fire(float(now))
    assert world.row().fired == 1


def test_given_a_server_that_starts_with_a_clock_that_was_set_back_then_a_period_goes_on(world):
    world.start(next_at=9_000.0)
    Firing(world.this, world.site, {}).fire_due(100.0)
    assert world.row().next_at == 110.0


def test_given_a_start_in_the_future_when_the_clock_is_set_back_then_it_stays(world):
    world.start(next_at=9_000.0, options={"start": 9_000.0})
    world.fire(100.0)
    assert world.row().next_at == 9_000.0


steps = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "run", "restart", "forward", "back"]), st.integers(1, 400)
    ),
    max_size=25,
)


@pytest.mark.parametrize(
    ("rule", "first"),
    [(["every", 30], 1_700_000_010.0), (["cron", "* * * * *", "UTC"], 1_700_000_040.0)],
    ids=["period", "cron"],
)
@pytest.mark.parametrize("missed", ["skip", "once", "all"])
def test_given_restarts_and_steps_of_the_clock_when_it_ticks_then_nothing_is_lost_or_doubled(
    world, rule, first, missed
):
    @given(plan=steps)
    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def check(plan):
        world.store.connection().execute("DELETE FROM waiting")
        world.store.connection().execute("DELETE FROM schedules")
        options = {"missed": missed, "overlap": "allow"}
        world.start(rule=rule, next_at=first, options=options)
        keeper, now, fired, latest = Firing(world.this, world.site, {}), first, 0, 0.0
        keeper.fire_due(now)
        for what, seconds in plan:
            before, went_back = now, what == "back"
            if what == "run":  # every second, as it is while a server runs
                for _ in range(min(seconds, 120)):
                    now += 1
                    keeper.fire_due(now)
            else:
                now += -seconds if went_back else seconds
                keeper = Firing(world.this, world.site, {}) if what == "restart" else keeper
                keeper.fire_due(now)
            row = world.row()
            assert row.fired >= fired
            assert row.next_at > now  # nothing that is due is left
            if rule[0] == "every":
                assert row.next_at <= now + 30
            else:
                assert row.moment >= latest  # what fired isn't due again
            if what == "run" and rule[0] == "every":
                ticks = (now - before) // 30
                assert ticks - 1 <= row.fired - fired <= ticks + 1
            fired, latest = row.fired, row.moment
        assert len(world.waiting()) == world.row().fired

    check()


@given(
    seconds=st.integers(1, 5000),
    late=st.integers(0, 10**6),
    missed=st.sampled_from(["all", "skip"]),
)
def test_given_any_lateness_when_judged_then_each_moment_is_fired_or_counted(seconds, late, missed):
    due = judge(Every(seconds), 1000, 1000, 1000 + late, missed)
    assert due.fires + due.missed == late // seconds + 1
    assert 1000 + late < due.next_moment <= 1000 + late + seconds


@given(late=st.integers(0, 50_000))
def test_given_any_lateness_of_a_cron_when_judged_then_each_moment_is_fired_or_counted(late):
    due = judge(CronExpression("*/5 * * * *", "UTC"), 3000, 3000, 3000 + late, "all")
    assert due.fires + due.missed == late // 300 + 1


# what the code says


def declared(world, name, **fields):
    world.start(name, **{"module": "gone_module", "incarnation": "7-7", **fields})


def retire(world):
    firing.retire(world.site, world.this.server)
    return [row.name for row in world.store.schedules()]


@pytest.fixture
def imported(monkeypatch):
    module = types.ModuleType("here_module")
    monkeypatch.setitem(sys.modules, "here_module", module)
    return module


def test_given_a_module_that_is_gone_when_retired_then_its_schedules_are(world):
    declared(world, "gone_module.f")
    assert retire(world) == []


def test_given_a_module_that_is_not_imported_when_retired_then_its_schedules_stay(world, tmp_path):
    sys.path.insert(0, str(tmp_path))
    try:
        (tmp_path / "not_imported_yet.py").write_text("raise SystemExit(1)")
        declared(world, "not_imported_yet.f", module="not_imported_yet")
        assert retire(world) == ["not_imported_yet.f"]
    finally:
        sys.path.remove(str(tmp_path))


def test_given_an_imported_module_when_it_declares_it_no_more_then_it_is_retired(world, imported):
    declared(world, "here_module.f", module="here_module")
    assert retire(world) == []


def test_given_a_module_that_is_being_imported_when_retired_then_its_schedules_stay(
    world, imported
):
    imported.__spec__ = types.SimpleNamespace(_initializing=True)
    declared(world, "here_module.f", module="here_module")
    assert retire(world) == ["here_module.f"]


def test_given_a_schedule_that_is_declared_when_retired_then_it_stays(world, imported, monkeypatch):
    monkeypatch.setitem(timers.declared, "here_module.f", None)
    declared(world, "here_module.f", module="here_module")
    assert retire(world) == ["here_module.f"]


def test_given_an_added_schedule_when_its_module_is_gone_then_it_stays(world):
    declared(world, "gone_module.f", origin="added")
    assert retire(world) == ["gone_module.f"]


@pytest.mark.parametrize(
    ("incarnation", "stays"),
    [(f"{os.getpid()}-1", False), ("1-5", True), ("999999999-5", False)],
    ids=["reloaded", "another that lives", "dead"],
)
def test_given_a_lazy_one_of_another_start_when_retired_then_it_ends_with_its_server(
    world, incarnation, stays
):
    declared(world, "gone_module.f", options={"lazy": True}, incarnation=incarnation)
    assert bool(retire(world)) is stays


def test_given_what_was_imported_since_when_it_ticks_then_schedules_are_retired(world, imported):
    world.fire(50.0)
    declared(world, "here_module.g", module="here_module")
    world.fire(51.0)
    assert len(world.store.schedules()) == 1
    sys.modules["one_more_module"] = types.ModuleType("one_more_module")
    try:
        world.fire(52.0)
    finally:
        del sys.modules["one_more_module"]
    assert world.store.schedules() == []
