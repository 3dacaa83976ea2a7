"""Waiting for the end of a run, the board, and the log lines that are kept."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time

import pytest

from uwsgi_tasks.board import KILLED, SOFTLY, Board, Teller
from uwsgi_tasks.errors import HomeError
from uwsgi_tasks.loglines import LogLines
from uwsgi_tasks.model import new_id
from uwsgi_tasks.waits import Waits


@pytest.fixture
def waits(tmp_path):
    return Waits(str(tmp_path / "waiters"), str(tmp_path / "waits"))


def ended_later(waits, ident, over, seconds=0.1):
    def end():
        time.sleep(seconds)
        over.append(True)
        waits.end(ident)

    threading.Thread(target=end).start()


def test_given_one_who_waits_when_the_run_ends_then_he_is_woken_at_once(waits):
    ident, over = new_id(), []
    ended_later(waits, ident, over)
    started = time.monotonic()
    assert waits.wait(ident, lambda: bool(over), 5.0)
    assert time.monotonic() - started < 0.6  # without the wake-up it would look after a second


def test_given_a_timeout_when_nothing_ends_then_it_is_kept(waits):
    assert not waits.wait(new_id(), lambda: False, 0.05)
    assert os.listdir(waits.folder) == []


def test_given_a_wake_up_that_is_lost_when_waiting_then_it_looks_again(waits):
    over = []
    threading.Timer(0.1, lambda: over.append(True)).start()
    assert waits.wait(new_id(), lambda: bool(over), 3.0)


def test_given_an_id_of_the_same_byte_when_it_ends_then_the_others_are_still_told(waits):
    ident, over = new_id(), []
    other = f"{new_id()[:-3]}{ident[-3:]}"
    threading.Timer(0.05, waits.end, [other]).start()
    ended_later(waits, ident, over, 0.2)
    started = time.monotonic()
    assert waits.wait(ident, lambda: bool(over), 5.0)
    assert time.monotonic() - started < 0.7


def test_given_one_who_was_killed_when_the_run_ends_then_his_fifo_goes(waits):
    ident = new_id()
    with waits.told(ident):
        pass
    os.mkfifo(os.path.join(waits.folder, f"{ident}.99999.0"))
    waits._raise(ident)
    waits.end(ident)
    assert os.listdir(waits.folder) == []


def test_given_a_full_disk_when_a_run_ends_then_nothing_is_raised(waits, monkeypatch):
    def full(*_):
        raise HomeError(28, "No space left on device")

    monkeypatch.setattr("uwsgi_tasks.files.map_file", full)
    waits.end(new_id())
    with pytest.raises(HomeError):
        waits.open()


def test_given_a_loop_when_the_run_ends_then_it_is_woken(waits):
    ident, over = new_id(), []
    ended_later(waits, ident, over)
    started = time.monotonic()
    asyncio.run(waits.wait_in_loop(ident, lambda: bool(over)))
    assert time.monotonic() - started < 0.6


@pytest.fixture
def board(tmp_path):
    return Board(str(tmp_path / "board"))


def test_given_progress_when_looked_at_from_elsewhere_then_it_is_seen(board, tmp_path):
    ident = new_id()
    teller = Teller(board.begin_telling(3, ident))
    teller.tell(1, 10, "reading")
    teller.tell(4, 10, "writing")
    seen = Board(str(tmp_path / "board")).progress(3, ident)
    assert (seen.done, seen.total, seen.message, seen.first_done) == (4, 10, "writing", 1)
    assert seen == teller.progress()


def test_given_no_total_and_a_long_message_when_told_then_they_fit(board):
    ident = new_id()
    teller = Teller(board.begin_telling(0, ident))
    teller.tell(1, None, "é" * 1000)
    seen = board.progress(0, ident)
    assert seen.total is None
    assert seen.message.startswith("é" * 100)


def test_given_another_run_in_the_slot_when_asked_then_its_progress_isnt_shown(board):
    Teller(board.begin_telling(0, new_id())).tell(1, 2, "")
    assert board.progress(0, new_id()) is None


def test_given_a_stop_that_was_asked_when_looked_at_then_it_holds_for_that_delivery(board):
    ident = new_id()
    board.ask_to_stop(2, ident, 1, KILLED)
    asked = [board.is_asked_to_stop(2, ident, n) for n in (1, 2)]
    assert (asked, board.stops()) == ([KILLED, 0], [])
    board.ask_to_stop(2, ident, 2, SOFTLY)
    assert board.stops() == [(2, ident, 2)]


@pytest.fixture
def lines():
    before = logging.getLogRecordFactory()
    kept = LogLines(3)
    kept.install()
    yield kept
    logging.setLogRecordFactory(before)


def test_given_log_lines_of_a_run_when_taken_then_the_last_are_there_once(lines):
    lines.keeps = True
    for number in range(5):
        logging.getLogger("app").warning("line %d", number)
    taken = lines.take()
    assert [line.partition(" ")[2] for line in taken] == [
        f"WARNING app: line {number}" for number in (2, 3, 4)
    ]
    assert lines.take() == ()


def test_given_lines_between_runs_or_of_the_library_when_taken_then_they_arent_there(lines):
    logging.getLogger("app").warning("between")
    lines.keeps = True
    logging.getLogger("uwsgi_tasks.runner").warning("ours")
    assert lines.take() == ()


def test_given_a_line_that_cant_be_shown_when_logged_then_the_task_isnt_harmed(lines):
    class Bad:
        def __str__(self):
            raise ValueError("no")

    lines.keeps = True
    logging.getLogger("app.none").disabled = False
    logger = logging.Logger("app.loose")  # without handlers, which would complain
    logger.warning("%s", Bad())
    assert lines.take()[0].endswith("app.loose: %s")


def test_given_a_root_logger_when_lines_are_kept_then_it_has_no_handler_of_ours(lines):
    assert not any(h.__class__.__module__.startswith("uwsgi_tasks") for h in logging.root.handlers)
