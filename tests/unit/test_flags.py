"""The page that every process of a home has mapped: pause, counters, announced mules."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from tests.unit.children import Child, forks, in_child
from uwsgi_tasks.errors import HomeError
from uwsgi_tasks.flags import COUNTERS
from uwsgi_tasks.home import Home


@pytest.fixture
def made(tmp_path):
    found = Home(str(tmp_path / ".uwsgi_tasks"))
    found.make()
    return found


@pytest.fixture
def other(made):
    """The same home, as another process has it mapped."""
    return Home(made.path)


def test_given_a_new_home_when_asked_then_nothing_is_said_in_it(made):
    assert (made.is_paused(), made.priorities_wait(), made.lazy_signal()) == (False, False, None)
    assert (made.counters(), made.announced_mules("100-1")) == (dict.fromkeys(COUNTERS, 0), [])


@pytest.mark.parametrize("wait", [True, False])
def test_given_waiting_priorities_when_marked_then_the_others_see_it(made, other, wait):
    made.mark_priorities(wait=not wait)
    made.mark_priorities(wait=wait)
    assert other.priorities_wait() is wait


def test_given_mules_when_announced_then_those_of_this_start_are_listed(made, other):
    made.announce_mule(1, "100-1")
    made.announce_mule(256, "100-1")
    made.announce_mule(3, "200-2")
    assert other.announced_mules("100-1") == [1, 256]
    assert [other.is_mule_announced(number, "100-1") for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("number", [0, 1, 255])
def test_given_a_signal_of_a_worker_when_noted_then_the_timekeeper_reads_it(made, other, number):
    assert other.lazy_signal() is None
    made.note_lazy_signal(number)
    assert other.lazy_signal() == number


# paused


@pytest.mark.parametrize("on", [True, False])
def test_given_a_pause_when_said_in_one_process_then_the_others_see_it(made, other, on):
    made.pause(not on)
    made.pause(on)
    assert other.is_paused() is on


@pytest.mark.parametrize("times", [1, 2])
def test_given_nobody_who_resumes_when_waited_for_then_it_is_still_paused_after_that_time(
    made, times
):
    for _ in range(times):
        made.pause(True)
    assert made.wait_resumed(0.05) is False


def test_given_no_pause_when_waited_for_then_it_goes_on_at_once(made):
    assert made.wait_resumed(1e9) is True


def test_given_several_who_wait_when_resumed_once_then_all_go_on(made):
    made.pause(True)
    found, ready = [], threading.Barrier(4)

    def wait():
        ready.wait()
        found.append(Home(made.path).wait_resumed(1e9))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    [thread.start() for thread in threads]
    ready.wait()
    made.pause(False)
    [thread.join() for thread in threads]
    assert found == [True] * 3


def test_given_a_pause_after_a_resume_when_waited_for_then_what_was_said_before_tells_nothing(made):
    for on in (True, False, True, False, True):
        made.pause(on)
    assert made.wait_resumed(0.05) is False


def test_given_resumes_when_said_very_often_then_nobody_blocks_and_a_pause_holds(made):
    for _ in range(70_000):  # more than a FIFO holds
        made.pause(False)
    made.pause(True)
    assert (made.is_paused(), made.wait_resumed(0.05)) == (True, False)


def test_given_a_pause_after_resumes_when_waited_for_then_nothing_wakes_those_who_wait(made):
    fifo = os.open(made.file("resumed"), os.O_RDWR | os.O_NONBLOCK)  # one who waits
    try:
        for _ in range(9):
            made.pause(False)
        made.pause(True)
        assert select.select([fifo], [], [], 0)[0] == []
    finally:
        os.close(fifo)


@forks
def test_given_a_process_that_is_killed_while_it_waits_when_resumed_then_the_others_go_on(made):
    made.pause(True)
    threads = []

    def work():
        threads.append(threading.Thread(target=made.wait_resumed, args=(1e9,), daemon=True))
        threads[0].start()

    with Child(work) as child:
        child.kill()
    made.pause(False)
    assert made.wait_resumed(1e9) is True


# one spool


@pytest.mark.parametrize("on", [True, False])
def test_given_a_paused_spool_when_said_in_one_process_then_the_others_see_it(made, other, on):
    made.pause_spool("/one", True)
    made.pause_spool("/two", True)
    made.pause_spool("/one", on)
    assert (other.is_paused("/one"), other.is_paused("/two"), other.is_paused()) == (
        on,
        True,
        False,
    )


def test_given_a_paused_spool_when_waited_for_then_the_others_go_on(made):
    made.pause_spool("/one", True)
    assert (made.wait_resumed(0.05, "/one"), made.wait_resumed(1e9, "/two")) == (False, True)


def test_given_a_spool_and_all_paused_when_both_are_resumed_then_who_waits_goes_on(made):
    made.pause_spool("/one", True)
    made.pause(True)
    found = []
    thread = threading.Thread(target=lambda: found.append(Home(made.path).wait_resumed(20, "/one")))
    thread.start()
    made.pause(False)
    waits = made.wait_resumed(0.05, "/one")
    made.pause_spool("/one", False)
    thread.join()
    assert (waits, found) == (False, [True])


def test_given_too_many_paused_spools_when_one_more_is_then_it_is_an_error(made):
    for number in range(64):
        made.pause_spool(f"/{number}", True)
    with pytest.raises(HomeError, match="resume one"):
        made.pause_spool("/more", True)
    assert made.is_paused("/63")


# the timekeeper


def test_given_activity_when_noted_twice_then_the_first_one_is_told(made, other):
    assert (made.note_activity(), other.note_activity()) == (True, False)
    made.forget_activity()
    assert other.note_activity() is True


@pytest.mark.parametrize(
    ("planned", "due", "told"), [(60, 30, True), (60, 90, False), (-5, 90, True)]
)
def test_given_a_plan_when_something_waits_then_the_timekeeper_is_told_if_it_sleeps_too_long(
    made, planned, due, told
):
    fifo = made.open_fifo()
    made.plan_look(time.time() + planned)
    made.wake_timekeeper_for(time.time() + due)
    waiter = select.poll()
    waiter.register(fifo, select.POLLIN)
    assert bool(waiter.poll(0)) is told
    os.close(fifo)


# until the reload


@pytest.mark.parametrize(
    ("until_reload", "next_start", "paused"),
    [(True, "100-2", False), (True, "100-1", True), (False, "100-2", True)],
)
def test_given_a_pause_when_the_next_start_begins_then_only_one_for_a_reload_ends(
    made, other, until_reload, next_start, paused
):
    made.note_incarnation("100-1")
    made.pause(True, until_reload=until_reload)
    other.note_incarnation(next_start)
    other.resume_after_reload(next_start)
    assert made.is_paused() is paused


def test_given_a_pause_for_a_reload_when_somebody_pauses_for_good_then_it_stays_paused(made):
    made.note_incarnation("100-1")
    made.pause(True, until_reload=True)
    made.pause(True)
    made.resume_after_reload("100-2")
    assert made.is_paused() is True


def test_given_a_pause_before_any_server_when_the_first_one_starts_then_it_holds(made):
    made.pause(True)
    made.note_incarnation("100-1")
    made.resume_after_reload("100-1")
    assert made.is_paused() is True


# counters


def test_given_counters_when_counted_then_each_has_its_own_number(made, other):
    for number, name in enumerate(COUNTERS):
        made.count(name, number)
        other.count(name)
    assert made.counters() == {name: number + 1 for number, name in enumerate(COUNTERS)}


def test_given_a_large_number_when_counted_then_no_other_counter_changes(made):
    made.count("refused", 2**32)
    made.count("refused", 2**32)
    assert made.counters() == {**dict.fromkeys(COUNTERS, 0), "refused": 2**33}


def test_given_a_home_in_which_nothing_was_said_when_counted_then_it_is_counted(made):
    assert not os.path.exists(made.file("flags"))
    made.count("crashed")
    assert made.counters()["crashed"] == 1


def _count_many(home):
    for _ in range(300):
        home.count("crashed")
        home.count("refused", 2)


@forks
def test_given_processes_and_threads_that_count_when_done_then_none_is_lost(made):
    made.flags()
    pids = []
    for _ in range(3):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                _count_many(made)
            finally:
                os._exit(0)
    threads = [threading.Thread(target=_count_many, args=(made,)) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    [os.waitpid(pid, 0) for pid in pids]
    found = made.counters()
    assert (found["crashed"], found["refused"]) == (1500, 3000)


@forks
def test_given_a_fork_when_the_child_says_something_then_the_parent_sees_it(made):
    made.flags()
    in_child(lambda: made.count("interrupted"))
    in_child(lambda: made.pause(True))
    assert (made.counters()["interrupted"], made.is_paused()) == (1, True)
