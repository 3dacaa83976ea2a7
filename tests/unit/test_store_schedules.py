"""The store's schedules and firings: each fires once, as often as it says."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.support.schedules import a_schedule
from uwsgi_tasks.store import WAITING, Standing, Store, Waiting


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store.db"))


def schedule(name="s", **fields):
    return a_schedule(name, **{"next_at": 10.0, **fields})


def due(store, moment):
    return [row for row, _ in store.due_schedules(moment, 100)]


def test_given_a_schedule_when_declared_twice_then_it_stands_once_as_first_declared(store):
    store.declare([schedule(next_at=10.0)])
    store.declare([schedule(next_at=99.0)])
    assert store.active_schedules() == [schedule(next_at=10.0)]


def test_given_a_schedule_of_a_past_start_when_declared_as_it_was_then_its_phase_goes_on(store):
    store.declare([schedule(incarnation="1", next_at=10.0)])
    store.declare([schedule(incarnation="2", next_at=99.0)])
    assert store.active_schedules() == [schedule(incarnation="2", next_at=10.0)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"digest": "a"}, {"digest": "b"}),
        ({"active": False}, {}),
        ({"iterations": 1}, {"iterations": 3}),
        ({"origin": "added"}, {}),
    ],
    ids=["changed", "stopped", "iterations", "added"],
)
def test_given_a_schedule_that_cannot_go_on_when_declared_then_it_is_anew(store, before, after):
    store.start(schedule(incarnation="1", next_at=10.0, **before))
    store.declare([schedule(incarnation="2", next_at=99.0, **after)])
    assert store.active_schedules() == [schedule(incarnation="2", next_at=99.0, **after)]


def test_given_a_paused_schedule_with_a_history_when_declared_anew_then_both_stay(store):
    history = {"paused": True, "fired": 3, "missed": 2, "skipped": 1, "last_at": 5.0}
    store.declare([schedule(last_id="x", digest="a", **history)])
    store.declare([schedule(incarnation="2", digest="b")])
    assert store.schedule("s") == schedule(incarnation="2", last_id="x", digest="b", **history)


def test_given_an_added_schedule_when_added_again_in_the_same_words_then_nothing_changes(store):
    store.add(schedule(origin="added", next_at=10.0))
    store.add(schedule(origin="added", next_at=99.0))
    assert store.schedule("s").next_at == 10.0


def test_given_an_added_schedule_when_added_in_other_words_then_it_is_anew(store):
    store.add(schedule(origin="added", next_at=10.0, fired=4))
    store.add(schedule(origin="added", next_at=99.0, digest="other"))
    assert (store.schedule("s").next_at, store.schedule("s").fired) == (99.0, 4)


def test_given_a_declared_schedule_when_one_of_its_name_is_added_then_it_is_refused(store):
    store.declare([schedule()])
    assert store.add(schedule(origin="added", next_at=99.0)) is None
    assert store.schedule("s") == schedule()


def test_given_a_schedule_that_is_asked_for_twice_when_read_then_it_is_asked_for_once(store):
    store.declare([schedule(next_at=10.0)])
    assert [store.ask("s", "1"), store.ask("s", "2"), store.ask("x", "3")] == ["1", "1", ""]
    assert (store.next_schedule(), len(store.asked_schedules(9))) == (0.0, 1)


def test_given_a_paused_schedule_when_due_then_it_is_not_until_resumed(store):
    store.declare([schedule()])
    store.pause_schedule("s")
    assert (due(store, 99), store.next_schedule()) == ([], None)
    store.resume_schedule(schedule(next_at=20.0))
    assert [row.next_at for row in due(store, 99)] == [20.0]


def test_given_a_schedule_that_runs_when_started_then_it_is_anew(store):
    store.declare([schedule(next_at=10.0)])
    store.start(schedule(next_at=99.0, iterations=3))
    assert store.active_schedules() == [schedule(next_at=99.0, iterations=3)]


def test_given_a_schedule_when_stopped_then_it_is_not_due_and_a_second_stop_tells_so(store):
    store.start(schedule())
    assert [store.stop("s"), store.stop("s"), store.stop("x")] == [True, False, False]
    assert due(store, 99) == []


def test_given_schedules_when_due_then_the_earliest_come_first(store):
    store.declare([schedule("a", next_at=9.0), schedule("b", next_at=3.0), schedule("c")])
    assert [found.name for found in due(store, 9.5)] == ["b", "a"]


def test_given_a_schedule_when_advanced_then_all_that_moves_is_written(store):
    store.declare([schedule()])
    moved = schedule(next_at=15.0, last_at=10.0, last_id="x", fired=1, missed=2, skipped=3)
    store.advance([moved])
    assert store.active_schedules() == [moved]


def test_given_more_than_a_batch_when_due_then_the_batch_has_the_earliest(store):
    store.declare([schedule(str(number), next_at=float(number)) for number in range(9)])
    assert [row.name for row, _ in store.due_schedules(99, 3)] == ["0", "1", "2"]


def test_given_schedules_of_past_starts_when_asked_for_then_only_the_declared_ones_come(store):
    store.declare([schedule("old"), schedule("new", incarnation="2")])
    store.add(schedule("added", origin="added"))
    assert [found.name for found in store.outdated_schedules("2")] == ["old"]


def test_given_a_last_message_when_due_then_it_is_told_where_that_stands(store):
    store.put(Waiting("m", 3, 5.0, None, 2, "/spool", "", b"", False))
    store.declare([schedule(last_id="m"), schedule("other", next_at=11.0)])
    assert [standing for _, standing in store.due_schedules(99, 9)] == [
        Standing(3, WAITING, "/spool", 2),
        None,
    ]


# firings


def test_given_firings_when_taken_then_each_is_given_once_the_oldest_first(store):
    for number in (1, 2):
        store.add_firing("worker", f"id{number}", b"%d" % number)
    taken = [store.take_firing("worker") for _ in range(3)]
    assert [found and int(found.envelope) for found in taken] == [1, 2, None]


def test_given_another_target_when_taken_then_there_is_none(store):
    store.add_firing("worker1", f"id{1}", b"%d" % 1)
    assert store.take_firing("worker2") is None


def test_given_threads_that_race_when_a_firing_is_taken_then_one_gets_it(store):
    for number in range(20):
        store.add_firing("worker", f"id{number}", b"%d" % number)
    taken = []

    def work():
        while (found := store.take_firing("worker")) is not None:
            taken.append(int(found.envelope))
        store.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == list(range(20))


def test_given_firings_for_every_worker_when_read_then_those_after_the_last_seen_come(store):
    for number in (1, 2, 3):
        store.add_firing("workers", f"id{number}", b"%d" % number)
    (first, *_) = store.firings_after("workers", 0)
    assert [int(found.envelope) for found in store.firings_after("workers", first.seq)] == [2, 3]


def test_given_firings_when_asked_for_the_last_one_before_a_moment_then_it_is_told(store):
    assert store.last_firing(time.time()) == 0
    store.add_firing("workers", "id1", b"1")
    assert [store.last_firing(time.time() + at) for at in (-9, 9)] == [0, 1]


def test_given_a_firing_when_taken_and_ended_then_it_is_told_who_has_it(store):
    store.add_firing("worker", "id1", b"1")
    told = [store.taker("id1")]
    taken = store.take_firing("worker")
    told.append(store.taker("id1"))
    store.end_firing(taken.seq)
    assert [*told, store.taker("id1")] == [0, os.getpid(), None]


def test_given_firings_that_nobody_took_when_asked_for_targets_then_each_comes_once(store):
    for number, target in enumerate(["worker", "worker1", "worker1"]):
        store.add_firing(target, f"id{number}", b"")
    store.take_firing("worker")
    assert (store.targets_after(0), store.targets_after(3)) == ([("worker1", 3)], [])


def test_given_old_firings_when_pruned_then_they_are_forgotten(store):
    store.add_firing("workers", f"id{1}", b"%d" % 1)
    store.prune(time.time() + 1)
    assert store.firings_after("workers", 0) == []
