"""The store: a row only moves forward, whoever else writes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sqlite3
import stat
import tempfile
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.children import forks, in_child
from uwsgi_tasks.errors import NotAvailable
from uwsgi_tasks.store import FINAL, IN_SPOOL, READY, WAITING, Store, Waiting


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.db")


@pytest.fixture
def store(path):
    return Store(path)


def row(ident="a", delivery=1, due=0.0, priority=None, spool="/spool", executor=2):
    return Waiting(ident, delivery, due, priority, executor, spool, "", b"envelope")


def ids(rows):
    return [row.id for row in rows]


# forward only


@pytest.mark.parametrize(
    ("first", "second", "taken"), [(1, 1, False), (1, 2, True), (3, 2, False), (2, 7, True)]
)
def test_given_a_delivery_that_waits_when_another_is_put_then_only_a_later_one_is_taken(
    store, first, second, taken
):
    store.put(row(delivery=first))
    assert store.put(row(delivery=second)) is taken
    assert store.stands_at("a") == (max(first, second), WAITING)


@pytest.mark.parametrize("state", [WAITING, IN_SPOOL, FINAL])
def test_given_the_same_delivery_when_put_again_then_the_row_stays_as_it_is(store, state):
    store.put(row())
    if state == IN_SPOOL:
        store.mark_in_spool(["a"])
    if state == FINAL:
        store.finish("a", 1)
    assert (store.put(row()), store.stands_at("a")) == (False, (1, state))


@pytest.mark.parametrize("state", [WAITING, IN_SPOOL, FINAL])
def test_given_the_next_delivery_when_put_then_the_row_waits_whatever_it_did(store, state):
    store.put(row())
    if state == IN_SPOOL:
        store.mark_in_spool(["a"])
    if state == FINAL:
        store.finish("a", 1)
    assert (store.put(row(delivery=2)), store.stands_at("a")) == (True, (2, WAITING))


@pytest.mark.parametrize("delivery", [1, 2])
def test_given_a_final_row_when_a_delivery_that_is_over_is_put_then_it_is_not_taken(
    store, delivery
):
    store.put(row(delivery=2))
    store.finish("a", 2)
    assert store.put(row(delivery=delivery)) is False
    assert store.stands_at("a") == (2, FINAL)


def test_given_a_later_delivery_when_an_earlier_one_finishes_then_it_still_waits(store):
    store.put(row(delivery=3))
    store.finish("a", 2)
    assert store.stands_at("a") == (3, WAITING)


def test_given_a_final_row_when_looked_at_then_it_keeps_no_envelope(store):
    store.put(row())
    store.finish("a", 1)
    kept = store.connection().execute("SELECT envelope FROM waiting").fetchone()
    assert kept == (b"",)


def test_given_an_id_that_never_waited_when_asked_then_it_is_unknown(store):
    assert store.stands_at("never") is None


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "finish", "spool", "back"]), st.integers(1, 5)),
        max_size=12,
    )
)
@settings(max_examples=25)
def test_given_any_steps_when_taken_then_the_delivery_never_falls_and_the_end_is_the_end(steps):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/store.db")
        follow(store, steps)
        store.close()


def follow(store, steps):
    delivery, state = 0, None
    for step, number in steps:
        if step == "put":
            assert store.put(row(delivery=number)) is (number > delivery)
        elif step == "finish":
            store.finish("a", number)
        elif step == "spool" and state in (WAITING, READY):
            store.mark_in_spool(["a"])
        elif step == "back" and state == IN_SPOOL:
            store.take_back("a")
        now = store.stands_at("a")
        if now is None:
            continue
        assert now[0] >= delivery
        assert not (state == FINAL and now[0] == delivery and now[1] != FINAL)
        delivery, state = now


# what is due


def test_given_rows_when_due_then_the_oldest_come_first_and_later_ones_not_at_all(store):
    for ident, due in [("c", 30), ("a", 10), ("b", 20), ("d", 40)]:
        store.put(row(ident, due=due))
    assert ids(store.due(30, 10)) == ["a", "b", "c"]


def test_given_rows_of_one_moment_when_due_then_they_come_by_id(store):
    for ident in "cab":
        store.put(row(ident, due=5))
    assert ids(store.due(5, 10)) == ["a", "b", "c"]


def test_given_many_rows_when_due_then_a_limit_holds(store):
    for number in range(10):
        store.put(row(f"{number}"))
    assert len(store.due(1, 4)) == 4


def test_given_rows_in_the_spool_or_final_when_due_then_they_are_left_out(store):
    for ident in "abc":
        store.put(row(ident))
    store.mark_in_spool(["a"])
    store.finish("b", 1)
    assert ids(store.due(1, 10)) == ["c"]


def test_given_prioritised_rows_when_due_at_once_then_they_wait_for_their_turn_only(store):
    store.put(row(priority=1.0))
    assert (store.due(1, 10), store.stands_at("a")) == ([], (1, READY))


def test_given_a_prioritised_row_of_later_when_due_then_it_is_made_ready_once(store):
    later = time.time() + 60
    store.put(row(due=later, priority=1.0))
    (found,) = store.due(later, 10)
    store.mark_ready([found])
    assert (store.due(later, 10), ids(store.most_urgent("/spool", 3))) == ([], ["a"])


def test_given_rows_when_asked_for_the_next_moment_then_it_is_the_earliest(store):
    for ident, due in [("b", 20.0), ("a", 10.0)]:
        store.put(row(ident, due=due))
    assert store.next_due() == 10.0


@pytest.mark.parametrize(("offset", "expected"), [(60, True), (-60, False)])
def test_given_a_prioritised_row_when_asked_for_the_next_moment_then_only_a_later_one_counts(
    store, offset, expected
):
    due = time.time() + offset
    store.put(row(due=due, priority=1.0))
    assert store.next_due() == (due if expected else None)


def test_given_nothing_when_asked_for_the_next_moment_then_there_is_none(store):
    assert (store.next_due(), store.next_schedule()) == (None, None)


def test_given_a_postponed_row_when_asked_then_it_is_due_later(store):
    store.put(row(due=10))
    store.postpone("a", 99.0)
    assert (store.due(50, 10), store.next_due()) == ([], 99.0)


# priorities


def test_given_prioritised_rows_when_asked_for_the_most_urgent_then_small_numbers_come_first(
    store,
):
    for ident, priority in [("a", 5.0), ("b", -1.0), ("c", 5.0), ("d", 0.5)]:
        store.put(row(ident, priority=priority))
    assert ids(store.most_urgent("/spool", 3)) == ["b", "d", "a"]


@pytest.mark.parametrize("other", [row("x", spool="/other", priority=0.0), row("x", due=9e9)])
def test_given_another_spool_or_a_later_row_when_asked_for_the_most_urgent_then_it_is_left_out(
    store, other
):
    store.put(other._replace(priority=0.0))
    store.put(row("a", priority=5.0))
    assert ids(store.most_urgent("/spool", 3)) == ["a"]


def test_given_a_prioritised_row_when_it_enters_and_leaves_the_spool_then_it_is_listed_so(store):
    store.put(row(priority=1.0))
    store.mark_in_spool(["a"])
    entered = store.prioritised_in_spool("/spool")
    store.take_back("a")
    assert (entered, store.prioritised_in_spool("/spool")) == ([(1.0, "a", 1)], [])
    assert store.stands_at("a") == (1, READY)


def test_given_prioritised_rows_when_all_are_final_then_none_is_left(store):
    store.put(row(priority=1.0))
    assert (store.has_priorities(), store.spools_with_priorities()) == (True, ["/spool"])
    store.finish("a", 1)
    assert (store.has_priorities(), store.spools_with_priorities()) == (False, [])


# cancelled, forgotten


def test_given_a_row_that_waits_when_cancelled_then_it_is_final(store):
    store.put(row())
    assert (store.cancel("a"), store.stands_at("a")) == (1, (1, FINAL))


@pytest.mark.parametrize("state", [None, IN_SPOOL, FINAL])
def test_given_a_row_that_does_not_wait_when_cancelled_then_it_is_told(store, state):
    if state is not None:
        store.put(row())
    if state == IN_SPOOL:
        store.mark_in_spool(["a"])
    if state == FINAL:
        store.finish("a", 1)
    assert store.cancel("a") == 0


def test_given_tombstones_when_pruned_then_only_old_ones_are_forgotten(store):
    for ident in "ab":
        store.put(row(ident))
    store.finish("a", 1)
    store.prune(time.time() + 1)
    assert (store.stands_at("a"), store.stands_at("b")) == (None, (1, WAITING))


def test_given_fresh_tombstones_when_pruned_then_they_stay(store):
    store.put(row())
    store.finish("a", 1)
    store.prune(time.time() - 3600)
    assert store.stands_at("a") == (1, FINAL)


def test_given_more_tombstones_than_are_pruned_at_once_when_pruned_then_all_go(store):
    with store.transaction():
        for number in range(1203):
            store.put(row(str(number)))
            store.finish(str(number), 1)
    store.prune(time.time() + 1)
    assert store.connection().execute("SELECT count(*) FROM waiting").fetchone() == (0,)


# how it is found


QUERIES = {
    "next due": lambda store: store.next_due(),
    "due": lambda store: store.due(9e9, 9),
    "due, without mules": lambda store: store.due(9e9, 9, mules=False),
    "most urgent": lambda store: store.most_urgent("/spool", 3),
    "in the spool": lambda store: store.prioritised_in_spool("/spool"),
    "has priorities": lambda store: store.has_priorities(),
    "spools": lambda store: store.spools_with_priorities(),
    "one that waits": lambda store: store.waiting("a"),
    "stands at": lambda store: store.stands_at("a"),
    "to enter": lambda store: store.mark_entered(row()),
    "to finish": lambda store: store.finish("a", 1),
    "to cancel": lambda store: store.cancel("a"),
    "to take back": lambda store: store.take_back("a"),
    "to put": lambda store: store.put(row("b")),
    "to prune": lambda store: store.prune(1.0),
}


@pytest.mark.parametrize("query", QUERIES)
def test_given_many_rows_when_asked_then_no_table_is_scanned_and_nothing_sorted(store, query):
    for ident, priority in [("a", None), ("c", 1.0)]:
        store.put(row(ident, priority=priority))
    asked = []
    store.connection().set_trace_callback(asked.append)
    QUERIES[query](store)
    store.connection().set_trace_callback(None)
    statements = [text for text in asked if " waiting" in text]
    plans = [
        step[3]
        for text in statements
        for step in store.connection().execute(f"EXPLAIN QUERY PLAN {text}")
    ]
    bad = [step for step in plans if "TEMP B-TREE" in step or step.startswith("SCAN waiting")]
    assert statements
    assert [step for step in bad if "INDEX waiting_" not in step or "TEMP" in step] == []


# what a run left


def test_given_a_checkpoint_when_saved_twice_then_the_last_one_is_read_until_dropped(store):
    store.save_checkpoint("a", b"one")
    store.save_checkpoint("a", b"two", on_disk=True)
    saved = store.checkpoint("a")
    store.drop_checkpoint("a")
    assert (saved, store.checkpoint("a")) == (b"two", None)


def test_given_a_file_that_cannot_be_removed_when_noted_then_it_is_listed_until_forgotten(store):
    store.pass_over("a", 1, "/spool/a.1")
    store.pass_over("a", 2, "/spool/a.2")
    listed = (store.passed_over(), store.is_passed_over("a"))
    store.forget_passed_over("a")
    assert listed == ([("a", 2, "/spool/a.2")], True)
    assert (store.passed_over(), store.is_passed_over("a")) == ([], False)


def test_given_a_row_that_is_to_be_on_the_disk_when_put_then_it_says_so_and_later_ones_do_not(
    store,
):
    store.put(row()._replace(on_disk=True))
    assert [found.on_disk for found in store.due(1, 10)] == [True]
    assert store.connection().execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL again


def test_given_a_database_that_takes_nothing_when_put_then_the_cure_is_told(store, path):
    store.put(row())
    store.connection().execute("PRAGMA query_only = ON")
    with pytest.raises(NotAvailable, match=f"{path} .*nothing was submitted.*have room"):
        store.put(row("b"))


# several writers


def test_given_threads_that_put_the_same_delivery_when_done_then_one_of_them_did(store):
    taken, start = [], threading.Barrier(4)

    def work():
        store.connection()
        start.wait()
        taken.extend(store.put(row(str(number))) for number in range(50))
        store.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(taken), sum(taken)) == (200, 50)


def _put_many(path, results):
    store = Store(path)
    results.put(sum(store.put(row(str(number))) for number in range(50)))
    store.close()


def test_given_processes_that_open_a_new_store_at_once_when_done_then_each_row_is_put_once(path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_put_many, args=(path, results)) for _ in range(3)]
    [worker.start() for worker in workers]
    found = [results.get(timeout=30) for _ in workers]
    [worker.join() for worker in workers]
    results.close()
    assert sum(found) == 50


@forks
def test_given_an_open_connection_when_forked_then_the_child_opens_its_own(store):
    mine = store.connection()
    assert in_child(lambda: store.connection() is mine) == "False"


@forks
def test_given_a_fork_when_the_child_wrote_then_the_parent_reads_it(store):
    store.put(row("parent"))
    in_child(lambda: store.put(row("child")))
    assert ids(store.due(1, 10)) == ["child", "parent"]


def test_given_a_thread_when_it_asks_for_a_connection_then_it_gets_its_own(store):
    found = []
    thread = threading.Thread(target=lambda: found.append(store.connection()))
    thread.start()
    thread.join()
    assert found[0] is not store.connection()


def test_given_a_transaction_when_it_raises_then_nothing_of_it_is_written(store):
    def fail():
        with store.transaction():
            store.put(row())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.stands_at("a") is None


# the file


def test_given_a_loose_umask_when_made_then_the_file_is_for_the_owner_only(path):
    before = os.umask(0)
    try:
        Store(path).put(row())
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_given_a_store_when_opened_then_it_is_in_wal_mode_at_the_latest_version(store):
    connection = store.connection()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone()[0] >= 1


def test_given_a_store_when_opened_again_then_its_rows_are_there(path):
    first = Store(path)
    first.put(row())
    first.close()
    assert Store(path).stands_at("a") == (1, WAITING)


def test_given_what_is_no_database_when_opened_then_it_is_an_error(path):
    with open(path, "wb") as file:
        file.write(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        Store(path).connection()
    gc.collect()  # Python 3.13 tells of a connection that was left open
