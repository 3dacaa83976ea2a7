"""The store's schedules and firings: each fires once, as often as it says."""

from __future__ import annotations

import threading
import time

import pytest

from uwsgi_tasks.model import Schedule
from uwsgi_tasks.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store.db"))


def schedule(name="s", incarnation="1", next_at=10.0, iterations=None, active=True, number=7):
    return Schedule(name, incarnation, '["every", 5]', "", number, iterations, active, next_at)


def test_given_a_schedule_when_declared_twice_then_it_stands_once_as_first_declared(store):
    store.declare([schedule(next_at=10.0)])
    store.declare([schedule(next_at=99.0)])
    assert store.active_schedules() == [schedule(next_at=10.0)]


def test_given_a_schedule_of_a_past_start_when_declared_then_it_is_anew(store):
    store.declare([schedule(incarnation="1", next_at=10.0)])
    store.declare([schedule(incarnation="2", next_at=99.0)])
    assert store.active_schedules() == [schedule(incarnation="2", next_at=99.0)]


def test_given_a_schedule_that_runs_when_started_then_it_is_anew(store):
    store.declare([schedule(next_at=10.0)])
    store.start(schedule(next_at=99.0, iterations=3))
    assert store.active_schedules() == [schedule(next_at=99.0, iterations=3)]


def test_given_a_schedule_when_stopped_then_it_is_not_due_and_a_second_stop_tells_so(store):
    store.start(schedule())
    assert [store.stop("s"), store.stop("s"), store.stop("x")] == [True, False, False]
    assert store.due_schedules(99) == []


def test_given_schedules_when_due_then_the_earliest_come_first(store):
    store.declare([schedule("a", next_at=9.0), schedule("b", next_at=3.0), schedule("c")])
    assert [found.name for found in store.due_schedules(9.5)] == ["b", "a"]


def test_given_a_schedule_when_advanced_then_it_is_next_due_then(store):
    store.declare([schedule()])
    store.advance(schedule(), 15.0)
    assert store.next_schedule() == 15.0


def test_given_iterations_when_advanced_so_often_then_it_stops(store):
    store.start(schedule(iterations=2))
    (first,) = store.due_schedules(10)
    store.advance(first, 15.0)
    (second,) = store.due_schedules(15)
    store.advance(second, 20.0)
    assert (first.iterations, second.iterations, store.due_schedules(99)) == (2, 1, [])


def test_given_a_schedule_that_was_restarted_meanwhile_when_advanced_then_the_new_start_holds(
    store,
):
    store.start(schedule(iterations=1))
    (seen,) = store.due_schedules(10)
    store.start(schedule(next_at=50.0, iterations=1))
    store.advance(seen, 15.0)
    assert store.active_schedules() == [schedule(next_at=50.0, iterations=1)]


def test_given_a_rule_that_is_never_due_again_when_advanced_then_it_stops(store):
    store.declare([schedule()])
    store.advance(schedule(), None)
    assert store.active_schedules() == []


def test_given_schedules_of_past_starts_when_retired_then_only_the_present_ones_stay(store):
    store.declare([schedule("old", incarnation="1"), schedule("new", incarnation="2")])
    store.retire_schedules("2")
    assert [found.name for found in store.active_schedules()] == ["new"]


# firings


def test_given_firings_when_taken_then_each_is_given_once_the_oldest_first(store):
    for number in (1, 2):
        store.add_firing("worker", "s", number)
    taken = [store.take_firing("worker") for _ in range(3)]
    assert [found and found.number for found in taken] == [1, 2, None]


def test_given_another_target_when_taken_then_there_is_none(store):
    store.add_firing("worker1", "s", 1)
    assert store.take_firing("worker2") is None


def test_given_threads_that_race_when_a_firing_is_taken_then_one_gets_it(store):
    for number in range(20):
        store.add_firing("worker", "s", number)
    taken = []

    def work():
        while (found := store.take_firing("worker")) is not None:
            taken.append(found.number)
        store.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == list(range(20))


def test_given_firings_for_every_worker_when_read_then_those_after_the_last_seen_come(store):
    for number in (1, 2, 3):
        store.add_firing("workers", "s", number)
    (first, *_) = store.firings_after("workers", 0)
    assert [found.number for found in store.firings_after("workers", first.seq)] == [2, 3]


def test_given_firings_that_were_taken_when_asked_for_the_last_number_then_it_did_not_fall(store):
    assert store.last_firing() == 0
    store.add_firing("worker", "s", 1)
    store.take_firing("worker")
    assert store.last_firing() == 1


def test_given_old_firings_when_pruned_then_they_are_forgotten(store):
    store.add_firing("workers", "s", 1)
    store.prune(time.time() + 1)
    assert store.firings_after("workers", 0) == []
