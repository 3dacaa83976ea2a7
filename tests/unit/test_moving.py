"""What waits moves on: in order, never early, in batches, and over every death in between."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.messages import a_message
from tests.unit.children import forks
from uwsgi_tasks import wire
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.home import Home
from uwsgi_tasks.model import TaskExecutor
from uwsgi_tasks.site import Site

SPOOLER = TaskExecutor.SPOOLER
START = 1_800_000_000.0


def names(spool):
    return sorted(path.name for path in Path(spool).glob("uwsgi_spoolfile_on_*"))


def left_half_written(spool):
    return [path.name for path in Path(spool).glob(".uwsgi_spoolfile_on_*")]


def read(site, spool, name):
    return wire.unpack(wire.envelope_of_file(Path(spool, name).read_bytes()), site.signer)


def run_all(site, spool):
    """Run what lies in a spool, one file at a time, as one spooler does; return the ids."""
    ran = []
    while names(spool):
        (name,) = names(spool)
        message = read(site, spool, name)
        ran.append(message.id)
        site.finish(message)
        os.unlink(Path(spool, name))
        site.pump(spool, 1, swap=True)
    return ran


@given(
    priorities=st.lists(st.sampled_from([-3.5, 0.0, 1.0, 2.0, 100.0]), max_size=9), data=st.data()
)
@settings(max_examples=25)
def test_given_any_priorities_when_all_ran_then_the_order_is_priority_then_arrival(
    priorities, data
):
    with tempfile.TemporaryDirectory() as spool:
        site = Site(Home(f"{spool}/.uwsgi_tasks"), ())
        messages = [a_message(priority=priority) for priority in priorities]
        for message in data.draw(st.permutations(messages)):  # another process may be faster
            site.wait(message, 0.0, SPOOLER, spool)
        site.pump(spool, 1, swap=True)
        expected = sorted(messages, key=lambda message: (message.priority, message.id))
        assert run_all(site, spool) == [message.id for message in expected]
        site.store.close()


@given(
    dues=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=9),
    looks=st.lists(st.floats(0, 120, allow_nan=False), max_size=6),
)
@settings(max_examples=25)
def test_given_any_moments_when_promoted_then_nothing_enters_early_and_nothing_is_left(dues, looks):
    with tempfile.TemporaryDirectory() as spool, time_machine.travel(START, tick=False) as clock:
        site = Site(Home(f"{spool}/.uwsgi_tasks"), ())
        messages = {}
        for due in dues:
            message = a_message(at=START + due)
            messages[message.id] = START + due
            site.wait(message, START + due, SPOOLER, spool)
        for look in [*sorted(looks), 121.0]:
            clock.move_to(START + look)
            site.promote(START + look, None)  # exact, as the moved clock isn't
            entered = {read(site, spool, name).id for name in names(spool)}
            assert entered == {i for i, due in messages.items() if due <= START + look}
        site.store.close()


@pytest.mark.parametrize("step", ["prepare", "enter", "mark_entered", "mark_ready"])
@pytest.mark.parametrize("after", [True, False])
@forks
def test_given_a_process_killed_while_it_promotes_when_repeated_then_each_enters_once(
    site, spool, step, after
):
    for _ in range(3):
        site.wait(a_message(), 1.0, SPOOLER, spool)
    nth = 1 if step == "mark_ready" else 2
    owner = site.store if step.startswith("mark") else to_spool
    real, calls = getattr(owner, step), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth and not after:
            os._exit(9)
        result = real(*args, **kwargs)
        if len(calls) == nth:
            os._exit(9)
        return result

    pid = os.fork()
    if pid == 0:
        try:
            setattr(owner, step, deadly)
            site.promote(2.0, None)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    before = {name: os.stat(Path(spool, name)).st_ino for name in names(spool)}
    site.promote(2.0, None)
    now = {name: os.stat(Path(spool, name)).st_ino for name in names(spool)}
    assert len(now) == 3
    assert before.items() <= now.items()  # a second inode would give away the lock on the first
    assert site.store.next_due() is None


def test_given_rows_that_went_on_meanwhile_when_entered_then_their_files_are_dropped(
    site, spool, monkeypatch
):
    kept, cancelled = a_message(), a_message()
    for message in (kept, cancelled):
        site.wait(message, 1.0, SPOOLER, spool)
    real = to_spool.prepare

    def meanwhile(*args, **kwargs):
        site.cancel(cancelled.id, [spool])
        return real(*args, **kwargs)

    monkeypatch.setattr(to_spool, "prepare", meanwhile)
    site.promote(2.0, None)
    assert (names(spool), left_half_written(spool)) == ([to_spool.file_name(kept.id, 1)], [])


def test_given_a_batch_that_takes_too_long_when_entered_then_the_rest_comes_next(
    site, spool, monkeypatch
):
    for _ in range(5):
        site.wait(a_message(), 1.0, SPOOLER, spool)
    monkeypatch.setattr("uwsgi_tasks.moving._LONGEST_S", -1.0)
    site.promote_batch(2.0, None)
    assert (names(spool), left_half_written(spool), site.store.next_due()) == ([], [], 1.0)


@pytest.mark.parametrize("due", [1.0, 9e9])
def test_given_one_message_when_promoted_alone_then_it_enters_if_it_is_due(site, spool, due):
    message = a_message()
    site.wait(message, due, SPOOLER, spool)
    site.wait(a_message(), 1.0, SPOOLER, spool)
    entered = site.promote_one(message.id, time.time())
    assert (entered, len(names(spool))) == (due == 1.0, int(due == 1.0))


def test_given_a_prioritised_message_of_later_when_due_then_it_waits_for_its_turn(site, spool):
    message = a_message(priority=3.0)
    later = time.time() + 60
    site.wait(message, later, SPOOLER, spool)
    marked = site.home.priorities_wait()
    site.promote(later, None)
    ready = [row.id for row in site.store.most_urgent(spool, 9)]
    site.pump(spool, 1, swap=False)
    assert (marked, ready, site.home.priorities_wait()) == (False, [message.id], True)
    assert names(spool) == [to_spool.file_name(message.id, 1)]


def test_given_a_full_window_when_a_less_urgent_one_comes_then_it_has_no_turn(site, spool):
    first = a_message(priority=5.0)
    site.wait(first, 0.0, SPOOLER, spool)
    assert site.has_turn(spool, 1, first.id, 5.0) is True
    site.pump(spool, 1, swap=True)
    assert site.has_turn(spool, 1, a_message().id, 5.0) is False
    assert site.has_turn(spool, 1, a_message().id, 4.0) is True
    assert site.has_turn(spool, 2, a_message().id, 9.0) is True
