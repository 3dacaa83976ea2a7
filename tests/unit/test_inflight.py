"""What a process has in hand outlives it, whatever kills it; what is over is remembered."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.children import Child, forks, in_child, killed_after
from uwsgi_tasks import inflight
from uwsgi_tasks.inflight import BEGUN, FREE, MULE, OVER, SPOOLER, Inflight, Instance

pytestmark = forks
HERE, OTHER = Instance(100, 1), Instance(200, 2)
RECORDS, SIZE = 4096, 128
STATE, PID, CLOCK = 48, 67, 71  # within a record
NO_PID = 2**31 - 1  # beyond the kernel's largest


def an_id(number, key=None):
    return f"{number:019d}-{(key or number.to_bytes(8, 'big')).hex()}"


A, B = an_id(1), an_id(2)


@pytest.fixture
def opened(tmp_path):
    """Map the file of one home, as each process does for itself."""
    (tmp_path / "hands").mkdir()
    found = []

    def open_one():
        one = Inflight(str(tmp_path / "inflight"), str(tmp_path / "hands"))
        found.append(one)
        return one

    yield open_one
    for one in found:
        one._map.close()
        os.close(one._descriptor)


@pytest.fixture
def table(opened):
    return opened()


def begins(table, ident=A, delivery=1, kind=SPOOLER, envelope=b"", number=0):
    def work():
        table.claim(kind, number, HERE)
        table.begin(ident, delivery, envelope)

    return work


def change(table, place, offset, value):
    """Change bytes of a record, as time and other processes do; no lock is given away."""
    at = RECORDS + place * SIZE + offset
    table._map[at : at + len(value)] = value


def die(table, place):
    """Make a record that of a process that doesn't exist."""
    change(table, place, PID, struct.pack("<IQ", NO_PID, 1))


# in hand


def test_given_a_process_that_is_killed_in_a_task_when_looked_at_then_its_record_tells(
    opened, table
):
    before = time.time()
    pid = killed_after(begins(table, A, 3, number=7))
    (record,) = opened().records()
    assert (record.id, record.delivery, record.state) == (A, 3, BEGUN)
    assert (record.kind, record.number, record.pid, record.instance) == (SPOOLER, 7, pid, HERE)
    assert before <= record.started_at <= time.time()
    assert record.marked_at == 0


def test_given_a_process_that_is_killed_after_the_end_when_looked_at_then_it_is_over(opened, table):
    def work():
        begins(table, A, 2)()
        table.end(A, 2, inflight.RETRIED)

    killed_after(work)
    found = opened()
    assert found.records()[0].state == OVER
    assert found.over_at(A) == (2, inflight.RETRIED, 0)


def test_given_a_run_that_did_not_start_when_released_then_nothing_is_in_hand_or_over(table):
    begins(table)()
    table.release()
    assert (table.records()[0].state, table.over_at(A), table.busy()) == (FREE, None, [])


@pytest.mark.parametrize(("place", "known"), [("hand", True), ("over", True), ("", False)])
def test_given_an_id_when_asked_whether_it_is_known_then_what_is_noted_counts(table, place, known):
    table.claim(SPOOLER, 0, HERE)
    if place == "hand":
        table.begin(A, 1)
    if place == "over":
        table.note_over(A, 1, inflight.OK)
    assert (table.knows(A), table.knows(B)) == (known, False)


def test_given_living_and_dead_processes_when_asked_who_is_busy_then_the_living_are(opened, table):
    killed_after(begins(table, A))
    with Child(begins(table, B)):
        assert [record.id for record in opened().busy()] == [B]


def test_given_a_process_when_asked_whether_a_record_is_its_own_then_only_its_own_is(table):
    begins(table)()
    with Child(begins(table, B)):
        assert [table.is_mine(record) for record in table.records()] == [True, False]
    assert in_child(lambda: table.is_mine(table.records()[0])) == "False"


def test_given_a_process_that_was_told_to_end_when_marked_then_its_record_says_when(opened, table):
    def work():
        begins(table)()
        table.mark()

    before = time.time()
    killed_after(work)
    assert before <= opened().records()[0].marked_at <= time.time()


def test_given_a_child_that_a_task_forked_when_it_is_told_to_end_then_the_task_is_not_marked(table):
    begins(table)()
    in_child(table.mark)
    assert table.records()[0].marked_at == 0


# who lives


def test_given_a_living_process_when_looked_at_by_another_then_it_lives_until_killed(opened, table):
    with Child(begins(table)) as child:
        (record,) = opened().records()
        assert opened().is_alive(record) is True
        child.kill()
        assert opened().is_alive(record) is False


def test_given_a_dead_process_whose_end_nobody_fetched_when_looked_at_then_it_is_dead(
    opened, table
):
    with Child(begins(table)) as child:
        child.kill(fetch=False)
        assert os.path.exists(f"/proc/{child.pid}/stat")
        assert opened().is_alive(opened().records()[0]) is False


def test_given_a_process_of_another_container_when_looked_at_then_its_lock_tells_that_it_lives(
    opened, table
):
    with Child(begins(table)) as child:
        die(table, 0)
        assert opened().is_alive(opened().records()[0]) is True
        child.kill()
        assert opened().is_alive(opened().records()[0]) is False


def test_given_a_task_that_closed_every_descriptor_when_looked_at_then_its_process_lives(
    opened, table
):
    def work():
        begins(table)()
        os.close(os.open(table.path, os.O_RDWR))  # gives every lock on the file away

    with Child(work):
        assert opened().is_alive(opened().records()[0]) is True


def test_given_a_pid_that_another_process_got_when_looked_at_then_the_first_is_dead(opened, table):
    killed_after(begins(table))
    change(table, 0, PID, struct.pack("<IQ", os.getpid(), 1))
    assert opened().is_alive(opened().records()[0]) is False


# one record per process


def test_given_living_processes_when_they_claim_then_each_gets_its_own(opened, table):
    with Child(begins(table, A)), Child(begins(table, B)):
        third = opened()
        third.claim(SPOOLER, 0, HERE)
        assert (third.place, [r.id for r in third.records()]) == (2, [A, B, ""])


def test_given_a_low_record_that_is_free_when_claimed_then_the_higher_ones_still_tell(
    opened, table
):
    with Child(begins(opened(), A)) as first, Child(begins(opened(), B)):
        table.clear(table.records()[0])
        first.kill()
        begins(table, an_id(3))()
        assert [record.id for record in opened().records()] == [an_id(3), B]


def test_given_a_record_that_tells_of_a_death_when_another_claims_then_it_is_left_alone(
    opened, table
):
    killed_after(begins(table))
    later = opened()
    later.claim(SPOOLER, 0, HERE)
    later.begin(B, 1)
    assert (later.place, [r.id for r in later.records()]) == (1, [A, B])


@pytest.mark.parametrize("how", ["over", "released", "cleared", "nothing"])
def test_given_a_dead_process_of_which_nothing_is_to_be_learnt_when_another_claims_then_it_gets_it(
    opened, table, how
):
    def work():
        table.claim(MULE, 9, OTHER)
        table.mark()
        if how != "nothing":
            table.begin(A, 4)
        if how == "over":
            table.end(A, 4, inflight.OK)
        if how == "released":
            table.release()

    killed_after(work)
    later = opened()
    if how == "cleared":
        later.clear(later.records()[0])
    later.claim(SPOOLER, 0, HERE)
    (record,) = later.records()
    assert later.place == 0
    assert record == inflight.Record(
        0, "", 0, 0.0, FREE, 0.0, SPOOLER, 0, os.getpid(), record.clock, HERE
    )


def test_given_a_record_to_keep_when_the_process_goes_on_then_it_has_another_one(table):
    begins(table, A)()
    table.keep()
    table.begin(B, 1)
    found = table.records()
    assert [(record.id, record.state) for record in found] == [(A, BEGUN), (B, BEGUN)]
    assert [table.is_mine(record) for record in found] == [True, True]


def test_given_a_record_that_changed_when_cleared_then_it_is_left_alone(table):
    begins(table, A)()
    seen = table.records()[0]
    table.begin(A, 2)
    table.clear(seen)
    assert table.records()[0].state == BEGUN


def test_given_no_room_when_claimed_then_the_process_works_without_a_record(opened, table):
    for place in range(inflight.MOST):
        change(table, place, 0, A.encode() + struct.pack("<IdB", 1, 1.0, BEGUN))
        die(table, place)
    table.claim(SPOOLER, 0, HERE)
    table.begin(B, 1)
    table.mark()
    table.end(B, 1, inflight.OK)
    table.release()
    assert (table.place, table.over_at(B)) == (None, (1, inflight.OK, 0))
    assert {record.id for record in table.records()} <= {A}


def test_given_every_record_when_claimed_by_so_many_then_none_lies_in_the_table_of_what_is_over(
    table,
):
    for place in range(inflight.MOST - 1):
        change(table, place, STATE, bytes([BEGUN]))
        die(table, place)
    begins(table)()
    table.note_over(an_id(1, bytes(8)), 5, inflight.OK)
    assert (table.place, table.records()[-1].id) == (inflight.MOST - 1, A)
    assert table.over_at(an_id(1, bytes(8))) == (5, inflight.OK, 0)


# mules


@pytest.mark.parametrize("size", [0, 5, 65536])
def test_given_a_mule_that_is_killed_when_asked_then_what_it_had_in_hand_is_there(
    opened, table, size
):
    killed_after(begins(table, A, 1, MULE, b"m" * size))
    found = opened()
    assert found.hand_of(found.records()[0]) == b"m" * size


def test_given_a_mule_that_is_killed_while_it_notes_the_next_delivery_when_asked_then_the_one_of_its_record_is_whole(  # noqa: E501
    opened, table
):
    killed_after(begins(table, A, 1, MULE, b"first"))
    (record,) = table.records()
    with open(os.path.join(os.path.dirname(table.path), "hands", "0"), "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        mapped[: 65536 + 8] = b"\xff" * (65536 + 8)  # where delivery 2 goes
        mapped.close()
    assert opened().hand_of(record) == b"first"


def test_given_a_mule_that_retries_when_killed_then_its_last_delivery_is_there(opened, table):
    def work():
        begins(table, A, 1, MULE, b"the first, which is longer")()
        table.begin(A, 2, b"second")

    killed_after(work)
    found = opened()
    assert found.hand_of(found.records()[0]) == b"second"


# what is over

keys = st.builds(
    lambda bucket, rest: bytes([bucket, 0]) + bytes([rest]) * 6,
    st.integers(0, 2),
    st.integers(0, 14),
)
ends = st.lists(st.tuples(keys, st.integers(1, 4), st.integers(1, 6)), max_size=60)


@given(ends=ends)
def test_given_any_ends_when_asked_then_the_latest_delivery_of_the_last_eight_of_a_bucket_is_told(
    tmp_path_factory, ends
):
    folder = str(tmp_path_factory.mktemp("over"))
    table, buckets = Inflight(f"{folder}/inflight", folder), defaultdict(list)
    for key, delivery, state in ends:
        table.note_over(an_id(1, key), delivery, state)
        buckets[key[0]].append((key, delivery, state))
        assert table.knows(an_id(1, key))
    for key in {key for key, _, _ in ends}:
        kept = [(d, s, 0) for k, d, s in buckets[key[0]][-8:] if k == key]
        assert table.over_at(an_id(1, key)) == max(kept, default=None)
    table._map.close()
    os.close(table._descriptor)


def test_given_ids_that_fill_a_bucket_when_one_more_ends_then_only_the_oldest_is_forgotten(table):
    idents = [an_id(n, b"\1\0" + bytes([n]) * 6) for n in range(1, 10)]
    for ident in idents:
        table.note_over(ident, 1, inflight.OK)
    found = [table.over_at(ident) is not None for ident in idents]
    assert found == [False, *[True] * 8]


def test_given_65536_ids_when_they_end_then_most_of_them_are_remembered(table):
    idents = [an_id(n, struct.pack("<H", n) + b"\1" * 6) for n in range(65536)]
    for ident in idents:
        table.note_over(ident, 1, inflight.OK)
    assert all(table.over_at(ident) for ident in idents)


def test_given_the_ends_of_others_when_asked_then_their_processes_need_not_live(opened, table):
    killed_after(lambda: table.note_over(A, 7, inflight.DEAD))
    assert opened().over_at(A) == (7, inflight.DEAD, 0)


def test_given_a_file_that_comes_again_when_seen_then_it_is_counted_up_to_a_byte(table):
    table.note_over(B, 1, inflight.OK)
    table.note_over(A, 1, inflight.OK)
    for _ in range(300):
        table.note_seen(A)
    assert (table.over_at(A), table.over_at(B)) == ((1, 1, 255), (1, 1, 0))


# stops in order


def test_given_a_stop_when_noted_then_it_is_that_server_s_alone(opened, table):
    before = time.time()
    table.note_stop(HERE)
    assert before <= opened().stopped_at(HERE) <= time.time()
    assert [table.stopped_at(i) for i in (OTHER, Instance(100, 2), Instance(101, 1))] == [0, 0, 0]


def test_given_a_server_that_goes_on_when_told_then_its_stop_is_forgotten_and_no_other(table):
    table.note_stop(HERE)
    table.note_stop(OTHER)
    table.forget_stop(HERE)
    assert (table.stopped_at(HERE), table.stopped_at(OTHER) > 0) == (0.0, True)


def test_given_a_stop_that_is_noted_by_each_worker_when_asked_then_one_entry_holds_the_last(table):
    table.note_stop(OTHER)
    table.note_stop(HERE)
    first = table.stopped_at(HERE)
    table.forget_stop(OTHER)
    table.note_stop(HERE)
    assert table.stopped_at(HERE) >= first
    table.forget_stop(HERE)
    assert table.stopped_at(HERE) == 0


def test_given_a_stop_that_is_noted_again_when_asked_then_the_later_moment_is_told(
    table, monkeypatch
):
    for moment in (100.0, 200.0):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        table.note_stop(HERE)
    assert table.stopped_at(HERE) == 200.0


def test_given_more_starts_than_there_is_room_for_when_one_stops_then_it_is_noted(table):
    for number in range(1, 70):
        table.note_stop(Instance(number, number))
    assert table.stopped_at(Instance(69, 69)) > 0
    assert table.records() == []


# descriptors


def test_given_a_task_that_closed_our_descriptor_when_asked_then_it_is_told_and_opened_again(
    table,
):
    begins(table)()
    os.close(table._descriptor)
    assert [table.is_open(), table.is_open()] == [False, True]
    assert table.was_closed is True


def test_given_a_descriptor_whose_number_was_used_again_when_others_are_looked_at_then_it_is_right(
    opened, table
):
    with Child(begins(opened())):
        die(table, 0)  # only its lock tells that it lives
        os.close(table._descriptor)
        null = os.open(os.devnull, os.O_RDWR)
        assert null == table._descriptor
        assert table.is_alive(table.records()[0]) is True
        os.close(null)


def test_given_a_new_file_when_made_then_its_blocks_are_there_and_it_is_the_owner_s(table):
    found = os.stat(table.path)
    assert (found.st_mode & 0o777, found.st_blocks * 512 >= found.st_size) == (0o600, True)
