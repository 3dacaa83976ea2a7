"""The history: folded once, pruned by age and number, and never in the way of a task."""

from __future__ import annotations

import os
import threading
import time

import pytest

from uwsgi_tasks import history as history_module
from uwsgi_tasks import journal
from uwsgi_tasks.model import new_id


def a_record(number=0, **fields):
    made = journal.Record(
        new_id(), 1, f"app.t{number}", "default", 2, None, 1.0, 2.0, time.time() + number
    )
    return made._replace(**fields)


@pytest.fixture
def history(site):
    site.history.journal.begin(0)
    return site.history


def tasks(site):
    return sorted(record.task for record in site.store.runs([], None, None, None, 100))


def test_given_notes_when_folded_then_each_is_in_the_store_once(site, history):
    for number in range(5):
        history.note(a_record(number))
    assert [history.fold(), history.fold()] == [5, 0]
    assert tasks(site) == [f"app.t{number}" for number in range(5)]


def test_given_two_files_when_folded_then_the_one_that_is_full_is_removed(history, monkeypatch):
    monkeypatch.setattr(journal, "_MOST_BYTES", 10)
    history.note(a_record(1))
    history.note(a_record(2))
    history.fold()
    assert history.journal.names() == ["0.2"]


def test_given_a_half_written_end_when_folded_then_what_follows_later_is_taken(site, history):
    history.note(a_record(1))
    data = journal.pack(a_record(2))
    path = history.journal.path("0.1")
    with open(path, "ab") as file:
        file.write(data[:50])
    assert history.fold() == 1
    with open(path, "ab") as file:
        file.write(data[50:])
    assert history.fold() == 1
    assert tasks(site) == ["app.t1", "app.t2"]


def test_given_a_record_larger_than_a_batch_when_folded_then_it_is_taken(site, history):
    history.note(a_record(1, result=b"x" * (history_module._BATCH_BYTES * 3)))
    history.note(a_record(2))
    assert (history.fold(), tasks(site)) == (2, ["app.t1", "app.t2"])


def test_given_an_id_that_ended_twice_when_folded_then_the_later_delivery_counts(site, history):
    first = a_record(1, state=journal.DEAD)
    history.note(first._replace(delivery=2, state=journal.OK))
    history.note(first)
    history.fold()
    assert site.store.run(first.id).state == journal.OK


@pytest.mark.parametrize("folds", [False, True])
def test_given_an_id_when_looked_for_then_it_is_found_before_and_after_folding(history, folds):
    wanted = a_record(1)
    history.note(wanted)
    history.note(a_record(2))
    if folds:
        history.fold()
        for name in history.journal.names():
            history.journal.remove(name)
    assert history.find(wanted.id) == wanted


def test_given_a_full_disk_when_noted_then_it_is_counted_said_once_and_nothing_raised(
    site, history, monkeypatch, caplog
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history.journal, "append", full)
    history.note(a_record(1))
    history.note(a_record(2))
    assert site.home.counters()["history_lost"] == 2
    assert caplog.text.count("can't be written into the history") == 1


def test_given_old_runs_when_tended_then_they_are_forgotten_and_the_others_kept(site, history):
    now = time.time()
    site.store.add_runs([a_record(1, finished_at=now - 100), a_record(2, finished_at=now)])
    history.tend(now, 50.0, 1000)
    assert tasks(site) == ["app.t2"]


def test_given_too_many_runs_when_tended_then_the_latest_are_kept(site, history):
    site.store.add_runs([a_record(number) for number in range(9)])
    history.tend(time.time(), 1e6, 4)
    assert tasks(site) == [f"app.t{number}" for number in range(5, 9)]


def test_given_many_to_prune_when_tended_then_it_comes_back_soon(site, history, monkeypatch):
    monkeypatch.setattr(history_module, "_PRUNE_ROWS", 3)
    site.store.add_runs([a_record(number) for number in range(9)])
    assert history.tend(time.time(), 1e6, 2) < 1
    assert len(tasks(site)) == 6


def test_given_a_journal_that_grows_when_tended_then_it_is_folded_when_it_is_quiet(site, history):
    now = time.time()
    history._folded_at = now
    history.note(a_record(1))
    history.tend(now, 1e6, 1000)
    assert not site.has_store() or tasks(site) == []
    history.tend(now + 3, 1e6, 1000)
    assert tasks(site) == ["app.t1"]


def test_given_many_who_write_and_fold_at_once_when_done_then_nothing_is_locked_or_lost(site):
    errors, number = [], 8

    def work(place):
        own = history_module.History(site.home, lambda: site.store, lambda: True)
        own.journal.begin(place)
        try:
            for n in range(30):
                own.note(a_record(place * 100 + n))
                own.fold()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.history.fold()
    assert errors == []
    assert sum(site.store.counts().values()) == number * 30


def test_given_no_place_when_noted_then_it_is_in_the_store_at_once(site):
    site.history.note(a_record(1))
    assert tasks(site) == ["app.t1"]
    assert not os.path.exists(site.history.journal.folder)
