"""What is said between who writes a file and the spooler that is busy: neither lost nor doubled."""

from __future__ import annotations

import os
import threading

import pytest

from tests.unit.children import Child, forks, in_child
from uwsgi_tasks.inflight import SPOOLER, Inflight, Instance

pytestmark = forks
HERE = Instance(100, 1)


@pytest.fixture
def opened(tmp_path):
    """Map the file of one home, as each process does for itself."""
    (tmp_path / "hands").mkdir()
    return lambda: Inflight(str(tmp_path / "inflight"), str(tmp_path / "hands"))


@pytest.fixture
def spooler(opened):
    found = opened()
    found.claim(SPOOLER, 0, HERE)
    return found


def test_given_a_spooler_in_its_handler_when_told_then_it_scans_again_once(spooler, opened):
    caller = opened()
    spooler.enter()
    assert [caller.leave_word(os.getpid()) for _ in range(3)] == [True] * 3
    assert (spooler.leave(), spooler.leave()) == (True, False)


def test_given_a_spooler_that_nobody_told_when_it_leaves_then_it_does_not_scan_again(spooler):
    spooler.enter()
    assert spooler.leave() is False


@pytest.mark.parametrize("before", [True, False])
def test_given_a_spooler_out_of_its_handler_when_told_then_it_takes_a_signal(
    spooler, opened, before
):
    if before:
        spooler.enter()
        spooler.leave()
    assert opened().leave_word(os.getpid()) is False


def test_given_a_pid_without_record_when_told_then_it_takes_a_signal(spooler, opened):
    spooler.enter()
    assert opened().leave_word(os.getppid()) is False


def test_given_no_record_when_a_handler_runs_then_it_goes_without(opened):
    found = opened()
    found.enter()
    assert found.leave() is False


def test_given_another_pid_namespace_when_told_then_its_record_is_another_process(
    spooler, opened, monkeypatch
):
    spooler.enter()
    monkeypatch.setattr("uwsgi_tasks.inflight._space", lambda: b"elsewhr.")
    assert opened().leave_word(os.getpid()) is False


def test_given_a_spooler_killed_in_its_handler_when_its_pid_starts_anew_then_it_is_forgotten(
    opened,
):
    found = opened()
    found.claim(SPOOLER, 0, HERE)
    found.begin("x" * 36, 1)  # its record is kept for whoever looks after it
    found.enter()
    found.keep()
    assert opened().leave_word(os.getpid()) is False


def test_given_a_caller_in_another_process_when_it_tells_then_the_spooler_hears_it(spooler):
    spooler.enter()
    pid = os.getpid()
    assert in_child(lambda: spooler.leave_word(pid)) == "True"
    assert spooler.leave() is True


def test_given_words_and_leaves_at_once_when_done_then_each_was_heard_or_refused(spooler, opened):
    """Whoever was told that word was left must be followed by a leave that saw it."""
    caller, left, stop = opened(), [], threading.Event()
    heard = []

    def call():
        while not stop.is_set():
            left.append(caller.leave_word(os.getpid()))

    thread = threading.Thread(target=call)
    thread.start()
    for _ in range(3000):
        spooler.enter()
        heard.append(spooler.leave())
    stop.set()
    thread.join()
    spooler.enter()
    heard.append(spooler.leave())
    assert any(heard) or not any(left)
    assert spooler.leave() is False


def test_given_a_dead_spooler_when_another_claims_its_record_then_no_word_is_left(opened):
    found = opened()

    def work():
        found.claim(SPOOLER, 0, HERE)
        found.enter()
        found.leave_word(os.getpid())

    with Child(work) as child:
        child.kill()
    found.claim(SPOOLER, 0, HERE)
    assert (found.place, found.leave()) == (0, False)
