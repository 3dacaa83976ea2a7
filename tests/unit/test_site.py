"""A site: what waits enters the spool once, the most urgent first, and can be found meanwhile."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from tests.unit.children import Child, forks, killed_after
from uwsgi_tasks import inflight, letters, wire
from uwsgi_tasks.errors import ConfigError
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.home import Home
from uwsgi_tasks.inflight import Instance
from uwsgi_tasks.model import TaskExecutor
from uwsgi_tasks.site import Site

SPOOLER, MULE = TaskExecutor.SPOOLER, TaskExecutor.MULE
OLD, NEW = "the-old-secret-of-the-site", "the-new-secret-of-the-site"


def files(spool):
    return sorted(path.name for path in Path(spool).glob("*spoolfile*"))


def read(site, spool, name):
    return wire.unpack(wire.envelope_of_file(Path(spool, name).read_bytes()), site.signer)


def lie(site, spool, message):
    """Put a message into the spool directly, as an ordinary call does."""
    content = wire.spool_file(wire.pack(message, site.signer))
    to_spool.submit(spool, message.id, message.delivery, content)
    return Path(spool, to_spool.file_name(message.id, message.delivery))


def holds(path):
    """Lock a spool file, as a spooler does before it calls its handler."""
    descriptor = os.open(path, os.O_RDWR)
    fcntl.lockf(descriptor, fcntl.LOCK_EX)


def in_hand(site, message):
    """Have a message in hand, as a spooler does that runs it."""
    site.inflight.claim(inflight.SPOOLER, 0, Instance(1, 2))
    site.inflight.begin(message.id, message.delivery)


# waiting and moving on


def test_given_a_message_that_waits_when_it_is_due_then_it_enters_the_spool(site, spool):
    message = a_message()
    site.wait(message, 100.0, SPOOLER, spool)
    assert site.promote(99.0, None) == set()
    assert site.promote(100.0, None) == {spool}
    (name,) = files(spool)
    assert read(site, spool, name) == message._replace(stored=True)


def test_given_a_message_that_entered_when_promoted_again_then_it_does_not_enter_twice(site, spool):
    site.wait(a_message(), 100.0, SPOOLER, spool)
    site.promote(100.0, None)
    os.unlink(Path(spool, files(spool)[0]))
    assert (site.promote(200.0, None), files(spool)) == (set(), [])


def test_given_a_file_that_is_there_when_the_row_is_promoted_then_it_is_left_as_it_is(site, spool):
    message = a_message()
    site.wait(message, 100.0, SPOOLER, spool)
    path = Path(spool, to_spool.file_name(message.id, 1))
    path.write_bytes(b"there before")
    site.promote(100.0, None)
    assert path.read_bytes() == b"there before"


def test_given_the_same_delivery_when_it_waits_twice_then_the_second_is_refused(site, spool):
    message = a_message()
    assert site.wait(message, 1.0, SPOOLER, spool) is True
    assert site.wait(message, 1.0, SPOOLER, spool) is False


def test_given_more_than_a_batch_when_due_then_all_enter(site, spool):
    for _ in range(505):
        site.wait(a_message(), 1.0, SPOOLER, spool)
    site.promote(2.0, None)
    assert len(files(spool)) == 505


def test_given_a_spool_that_is_gone_when_due_then_it_is_tried_again_later(site, spool):
    site.wait(a_message(), 100.0, SPOOLER, f"{spool}/gone")
    assert site.promote(100.0, None) == set()
    assert 100.0 < site.store.next_due() <= 110.0


@pytest.mark.parametrize("mule", [None, 2, "farm", "7"], ids=repr)
def test_given_a_message_for_a_mule_when_due_then_it_is_sent_there(site, mule):
    sent, message = [], a_message()
    site.wait(message, 1.0, MULE, mule=mule)
    site.promote(1.0, lambda envelope, where: sent.append((envelope, where)) or True)
    assert [(wire.unpack(envelope, site.signer).id, where) for envelope, where in sent] == [
        (message.id, mule)
    ]


def test_given_a_full_mule_when_due_then_it_is_tried_again_soon(site):
    site.wait(a_message(), 100.0, MULE)
    site.promote(100.0, lambda envelope, where: False)
    assert 100.0 < site.store.next_due() <= 101.0


def test_given_no_way_to_mules_when_due_then_it_stays_for_the_timekeeper(site, spool):
    site.wait(a_message(), 100.0, MULE)
    site.wait(a_message(), 100.0, SPOOLER, spool)
    assert site.promote(100.0, None) == {spool}
    assert site.store.next_due() == 100.0


# is it over?


def test_given_a_message_that_never_waited_when_asked_then_it_is_not_superseded(site):
    assert site.is_superseded(a_message()) is False
    assert not os.path.exists(site.home.file("store.db"))


@pytest.mark.parametrize(
    ("stands_at", "final", "delivery", "expected"),
    [(1, False, 1, False), (2, False, 1, True), (1, True, 1, True), (None, False, 1, False)],
)
def test_given_a_stored_copy_when_asked_then_the_row_tells_whether_it_went_on_without(
    site, spool, stands_at, final, delivery, expected
):
    message = a_message(delivery=delivery, stored=True)
    if stands_at:
        site.wait(message._replace(delivery=stands_at), 1.0, SPOOLER, spool)
    if final:
        site.finish(message)
    assert site.is_superseded(message) is expected


def test_given_a_message_that_was_not_stored_when_it_finishes_then_the_store_is_not_opened(site):
    site.finish(a_message())
    assert not os.path.exists(site.home.file("store.db"))


# priorities


def urgency(site, spool):
    return [read(site, spool, name).priority for name in files(spool)]


def wait_all(site, spool, *priorities):
    for priority in priorities:
        site.wait(a_message(priority=priority), 0.0, SPOOLER, spool)


@pytest.mark.parametrize(
    ("window", "expected"), [(1, [1.0]), (2, [1.0, 2.0]), (9, [1.0, 2.0, 3.0])]
)
def test_given_prioritised_messages_when_pumped_then_the_most_urgent_fill_the_window(
    site, spool, window, expected
):
    wait_all(site, spool, 3.0, 1.0, 2.0)
    assert site.pump(spool, window, swap=True) is True
    assert sorted(urgency(site, spool)) == expected


def test_given_a_full_window_when_pumped_then_nothing_enters(site, spool):
    wait_all(site, spool, 1.0, 2.0)
    site.pump(spool, 1, swap=False)
    assert (site.pump(spool, 1, swap=False), urgency(site, spool)) == (False, [1.0])


def test_given_a_more_urgent_message_when_pumped_then_it_swaps_with_one_that_nobody_has(
    site, spool
):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    wait_all(site, spool, 1.0)
    assert (site.pump(spool, 1, swap=True), urgency(site, spool)) == (True, [1.0])


def test_given_a_message_that_was_swapped_out_when_there_is_room_then_it_enters_again(site, spool):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    wait_all(site, spool, 1.0)
    site.pump(spool, 1, swap=True)
    (name,) = files(spool)
    site.finish(read(site, spool, name))
    os.unlink(Path(spool, name))
    site.pump(spool, 1, swap=True)
    assert urgency(site, spool) == [5.0]


def test_given_a_file_that_a_dead_process_took_back_when_pumped_then_it_enters_again(site, spool):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    os.unlink(Path(spool, files(spool)[0]))
    assert (site.pump(spool, 1, swap=True), urgency(site, spool)) == (True, [5.0])


@pytest.mark.parametrize("priority", [5.0, 9.0])
def test_given_a_message_that_is_no_more_urgent_when_pumped_then_it_does_not_swap(
    site, spool, priority
):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    wait_all(site, spool, priority)
    assert (site.pump(spool, 1, swap=True), urgency(site, spool)) == (False, [5.0])


def test_given_no_swapping_when_pumped_then_a_more_urgent_message_waits(site, spool):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    wait_all(site, spool, 1.0)
    assert (site.pump(spool, 1, swap=False), urgency(site, spool)) == (False, [5.0])


@forks
def test_given_a_file_in_hand_when_pumped_then_it_is_not_taken_back(site, spool):
    wait_all(site, spool, 5.0)
    site.pump(spool, 1, swap=True)
    (name,) = files(spool)
    wait_all(site, spool, 1.0)
    with Child(lambda: holds(Path(spool, name))):
        assert site.pump(spool, 1, swap=True) is False
    assert urgency(site, spool) == [5.0]


def test_given_a_prioritised_message_that_is_not_due_when_pumped_then_it_waits(site, spool):
    site.wait(a_message(priority=1.0), time.time() + 60, SPOOLER, spool)
    assert (site.pump(spool, 1, swap=True), files(spool)) == (False, [])


@pytest.mark.parametrize("over", [True, False])
def test_given_prioritised_messages_when_the_last_is_over_then_ordinary_ones_may_pass(
    site, spool, over
):
    message = a_message(priority=1.0, stored=True)
    site.wait(message, 0.0, SPOOLER, spool)
    marked = site.home.priorities_wait()
    if over:
        site.finish(message)
    site.pump(spool, 1, swap=True)
    assert (marked, site.home.priorities_wait()) == (True, not over)


# found and cancelled


@pytest.fixture
def placed(site, spool):
    """Put a message into a state; return it and the state's name."""

    def place(state):
        message = a_message()
        if state == "in the spool":
            lie(site, spool, message)
        elif state in ("waiting", "promoted", "finished"):
            site.wait(message, 1.0, SPOOLER, spool)
        if state == "promoted":
            site.promote(1.0, None)
        if state == "finished":
            site.finish(message._replace(stored=True))
        if state == "dead":
            site.bury(letters.letter_of(message, "why", "", "", spool), b"")
        return message

    return place


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("never", "gone"),
        ("in the spool", "queued"),
        ("waiting", "queued"),
        ("promoted", "queued"),
        ("finished", "gone"),
        ("dead", "dead"),
    ],
)
def test_given_a_message_when_looked_for_then_the_files_tell_its_state(
    site, spool, placed, state, expected
):
    assert site.find(placed(state).id, [spool])[0] == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("never", False),
        ("in the spool", True),
        ("waiting", True),
        ("promoted", True),
        ("finished", False),
        ("dead", False),
    ],
)
def test_given_a_message_when_cancelled_then_only_a_queued_one_is(
    site, spool, placed, state, expected
):
    assert site.cancel(placed(state).id, [spool]) is expected


@pytest.mark.parametrize("state", ["in the spool", "waiting", "promoted"])
def test_given_a_cancelled_message_when_time_passes_then_it_does_not_come_back(
    site, spool, placed, state
):
    message = placed(state)
    site.cancel(message.id, [spool])
    site.promote(99.0, None)
    assert (files(spool), site.find(message.id, [spool])[0]) == ([], "gone")


def test_given_a_message_that_enters_the_spool_meanwhile_when_cancelled_then_it_is_removed_there(
    site, spool, monkeypatch
):
    message, cancel = a_message(), site.store.cancel

    def late(ident):
        site.promote(100.0, None)
        return cancel(ident)

    monkeypatch.setattr(site.store, "cancel", late)
    site.wait(message, 100.0, SPOOLER, spool)
    assert site.cancel(message.id, [spool]) is True
    assert (files(spool), site.store.stands_at(message.id)) == ([], (1, 3))


@forks
def test_given_a_message_in_hand_when_looked_for_then_it_runs_and_cannot_be_cancelled(site, spool):
    message = a_message()
    path = lie(site, spool, message)

    def run():
        holds(path)
        in_hand(site, message)

    with Child(run):
        assert site.find(message.id, [spool]) == ("running", str(path))
        assert site.cancel(message.id, [spool]) is False
    assert path.exists()


@forks
def test_given_a_file_that_a_paused_spooler_holds_when_cancelled_then_it_is_over(site, spool):
    message = a_message()
    with Child(lambda: holds(lie(site, spool, message))):
        assert site.find(message.id, [spool])[0] == "queued"
        site.home.pause(True)
        assert site.cancel(message.id, [spool]) is True
        assert site.inflight.over_at(message.id) == (1, inflight.CANCELLED, 0)
        assert site.find(message.id, [spool])[0] == "gone"


@forks
def test_given_a_file_that_a_spooler_is_about_to_run_when_cancelled_then_it_is_left_alone(
    site, spool
):
    message = a_message()
    with Child(lambda: holds(lie(site, spool, message))):
        assert site.cancel(message.id, [spool]) is False
        assert site.inflight.over_at(message.id) is None


@forks
def test_given_a_message_that_a_dead_process_had_when_looked_for_then_it_is_queued(site, spool):
    message = a_message()
    lie(site, spool, message)
    killed_after(lambda: in_hand(site, message))
    assert site.find(message.id, [spool])[0] == "queued"


@forks
def test_given_messages_of_a_spool_when_counted_then_those_in_hand_are(site, spool):
    waits, runs = a_message(), a_message()
    for message in (waits, runs):
        lie(site, spool, message)
    with Child(lambda: in_hand(site, runs)):
        assert [record.id for record in site.inflight.busy()] == [runs.id]
    assert site.inflight.busy() == []


def test_given_the_task_of_this_very_process_when_looked_for_then_its_lock_is_not_touched(
    site, spool
):
    message = a_message()
    path = str(lie(site, spool, message))
    to_spool.hold(path)
    in_hand(site, message)
    assert site.find(message.id, [spool]) == ("running", path)
    assert site.cancel(message.id, [spool]) is False


@pytest.mark.parametrize("state", [inflight.OK, inflight.DEAD, inflight.CANCELLED])
def test_given_a_file_of_what_is_over_when_looked_for_then_it_is_gone(site, spool, state):
    message = a_message()
    lie(site, spool, message)
    site.inflight.note_over(message.id, 1, state)
    assert (site.find(message.id, [spool])[0], site.cancel(message.id, [spool])) == ("gone", False)


def test_given_a_retried_message_when_looked_for_then_the_file_of_its_next_delivery_counts(
    site, spool
):
    message = a_message(delivery=2)
    lie(site, spool, message)
    site.inflight.note_over(message.id, 1, inflight.RETRIED)
    assert site.find(message.id, [spool])[0] == "queued"
    assert (site.cancel(message.id, [spool]), files(spool)) == (True, [])


# keys


def test_given_a_rotated_secret_when_a_site_opens_then_it_signs_with_the_key_in_force(spool):
    home = Home(f"{spool}/home")
    Site(home, (OLD,))
    both = Site(home, (NEW, OLD))
    assert both.signer.sign(b"data") == wire.Signer([OLD.encode()]).sign(b"data")


def test_given_a_rotated_secret_when_messages_of_both_keys_come_then_both_are_read(spool):
    home = Home(f"{spool}/home")
    Site(home, (OLD,))
    both, message = Site(home, (NEW, OLD)), a_message()
    for key in (OLD, NEW):
        assert wire.unpack(wire.pack(message, wire.Signer([key.encode()])), both.signer) == message


def test_given_another_secret_alone_when_a_site_opens_then_it_is_refused(spool):
    home = Home(f"{spool}/home")
    Site(home, (OLD,))
    with pytest.raises(ConfigError):
        Site(home, (NEW,))
