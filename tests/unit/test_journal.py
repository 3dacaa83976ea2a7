"""The journal: what is appended is read again, whatever a death or a stranger did to the file."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwsgi_tasks import journal
from uwsgi_tasks.journal import FINAL_STATES, Journal, Record
from uwsgi_tasks.model import Message, new_id

texts = st.text(max_size=30)
times = st.floats(0, 1e10, allow_nan=False)
numbers = st.integers(0, 2**32 - 1)
records = st.builds(
    Record,
    id=st.builds(new_id),
    state=st.sampled_from(sorted(FINAL_STATES)),
    task=texts,
    queue=st.text(min_size=1, max_size=10),
    executor=st.integers(1, 4),
    priority=st.none() | st.floats(-1e9, 1e9),
    created_at=times,
    started_at=times,
    finished_at=times,
    due_at=times,
    attempt=numbers,
    delivery=numbers,
    crashes=numbers,
    interruptions=numbers,
    pid=numbers,
    reason=texts,
    error=texts,
    details=st.binary(max_size=50),
    result=st.binary(max_size=50),
)
many = st.lists(records, min_size=1, max_size=5)


def a_record(number=1, **fields):
    return Record(new_id(), 1, f"app.t{number}", "default", 2, None, 1.0, 2.0, 3.0, **fields)


def read(data):
    return [record for _, record in journal.records(data)]


@given(many)
def test_given_records_when_read_then_they_are_as_they_were(wanted):
    assert read(b"".join(map(journal.pack, wanted))) == wanted


@given(many, st.data())
def test_given_a_file_cut_anywhere_when_read_then_all_that_were_whole_are_there(wanted, data):
    packed = [journal.pack(record) for record in wanted]
    whole = b"".join(packed)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [sum(map(len, packed[: n + 1])) for n in range(len(packed))]
    assert read(whole[:cut]) == [r for r, end in zip(wanted, ends, strict=True) if end <= cut]


@given(many, st.binary(max_size=200), many)
def test_given_bytes_that_are_none_between_them_when_read_then_they_are_passed_over(
    first, foreign, second
):
    data = b"".join([*map(journal.pack, first), foreign, *map(journal.pack, second)])
    assert read(data) == [*first, *second]


@given(many, st.data())
def test_given_a_record_cut_off_with_others_behind_it_when_read_then_those_are_there(wanted, data):
    half = journal.pack(a_record())
    half = half[: data.draw(st.integers(1, len(half) - 1))]
    assert read(half + b"".join(map(journal.pack, wanted)))[-len(wanted) :] == wanted


@given(many, st.integers(0, 10_000), st.integers(1, 255))
def test_given_a_changed_byte_when_read_then_nothing_false_comes_out(wanted, place, change):
    data = bytearray(b"".join(map(journal.pack, wanted)))
    data[place % len(data)] ^= change
    assert set(read(bytes(data))) <= set(wanted)


@given(st.binary(max_size=300))
def test_given_any_bytes_when_read_then_it_never_fails(data):
    assert isinstance(read(data), list)


@given(many)
def test_given_an_id_when_looked_for_then_its_last_record_is_found(wanted):
    again = wanted[0]._replace(reason="later")
    data = b"".join(map(journal.pack, [*wanted, again]))
    assert journal.find(data, wanted[0].id) == again
    assert journal.find(data, new_id()) is None


def test_given_a_message_that_is_ok_when_packed_the_short_way_then_it_is_the_same():
    message = Message(new_id(), "app.t", b"", created_at=5.0, queue="mail", attempt=2, at=6.0)
    (found,) = read(journal.pack_plain(message, 2, 7.0, 8))
    wanted = (message.id, 1, "app.t", "mail", 2, None, 5.0, 7.0, 6.0, 2, 8)
    picked = found._replace(finished_at=0.0)
    assert (*picked[:8], picked.due_at, picked.attempt, picked.pid) == wanted


@pytest.fixture
def appending(tmp_path):
    made = Journal(str(tmp_path / "journal"))
    made.begin(3)
    return made


def contents(made):
    return [record for name in made.names() for record in read(made.read(name))]


def test_given_records_when_appended_then_they_lie_in_the_file_of_the_place(appending):
    wanted = [a_record(number) for number in range(3)]
    for record in wanted:
        appending.append(journal.pack(record))
    assert (appending.names(), contents(appending)) == (["3.1"], wanted)


def test_given_a_large_file_when_appended_to_then_the_next_one_begins(appending, monkeypatch):
    monkeypatch.setattr(journal, "_MOST_BYTES", 10)
    for number in range(3):
        appending.append(journal.pack(a_record(number)))
    names = appending.names()
    assert names == ["3.1", "3.2", "3.3"]
    assert [appending.is_closed(name, names) for name in names] == [True, True, False]


def test_given_a_descriptor_that_a_task_closed_when_appended_then_nothing_is_lost(appending):
    appending.append(journal.pack(a_record(1)))
    os.close(appending._descriptor)
    appending.append(journal.pack(a_record(2)))
    assert [record.task for record in contents(appending)] == ["app.t1", "app.t2"]


def test_given_a_disk_that_takes_half_when_appended_then_the_next_goes_into_another_file(
    appending, monkeypatch
):
    write = os.write
    appending.append(journal.pack(a_record(1)))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:40]))
    with pytest.raises(OSError, match="part"):
        appending.append(journal.pack(a_record(2)))
    monkeypatch.setattr(os, "write", write)
    appending.append(journal.pack(a_record(3)))
    assert [record.task for record in contents(appending)] == ["app.t1", "app.t3"]


def test_given_files_of_others_in_the_folder_when_listed_then_they_are_left_out(appending):
    appending.append(journal.pack(a_record()))
    for name in ("README", "3.x", ".3.1", "a.1"):
        (open(appending.path(name), "w")).close()
    assert appending.names() == ["3.1"]
