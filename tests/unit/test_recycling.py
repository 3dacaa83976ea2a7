"""What a task may leave behind in its process: put back, or the process ends in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import uwsgi_tasks
from uwsgi_tasks import consumer, handlers, recycling
from uwsgi_tasks.config import Settings
from uwsgi_tasks.inflight import SPOOLER, Inflight, Instance
from uwsgi_tasks.recycling import Recycler

SOURCE = str(Path(uwsgi_tasks.__file__).parents[1])


@pytest.fixture(autouse=True)
def state_of_the_process():
    """Put back what these tests change, pytest's own alarm included."""
    umask, environment, mask = os.umask(0o022), dict(os.environ), signal.pthread_sigmask(0, ())
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)
    handlers = {number: signal.getsignal(number) for number in numbers}
    alarm = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, *alarm)


@pytest.fixture
def inflight(tmp_path):
    (tmp_path / "hands").mkdir()
    found = Inflight(str(tmp_path / "inflight"), str(tmp_path / "hands"))
    found.claim(SPOOLER, 0, Instance(1, 2))
    return found


@pytest.fixture
def told(monkeypatch):
    """What the process was told, instead of being told it: pid and signal."""
    found, rang = [], threading.Event()

    def kill(pid, number):
        found.append((pid == os.getpid(), number))
        rang.set()

    monkeypatch.setattr(recycling.os, "kill", kill)
    return found, rang


@pytest.fixture
def make(inflight):
    def recycler(at_once=False, **settings):
        return Recycler(Settings(**settings), inflight, at_once=at_once)

    return recycler


# put back


def test_given_a_task_that_changes_the_umask_when_it_is_over_then_it_is_as_before(make):
    os.umask(0o027)
    recycler = make()
    os.umask(0)
    recycler.after_task()
    assert os.umask(0o022) == 0o027


def test_given_a_task_that_changes_the_environment_when_it_is_over_then_it_is_as_before(make):
    os.environ["KEPT"] = "before"
    before = dict(os.environ)
    recycler = make()
    os.environ.update(KEPT="after", NEW="x")
    del os.environ["PATH"]
    recycler.after_task()
    assert dict(os.environ) == before


def test_given_a_task_that_blocks_signals_when_it_is_over_then_they_arrive_again(make):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    recycler = make()
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM, signal.SIGUSR1})
    recycler.after_task()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}


def test_given_a_task_that_leaves_an_alarm_when_it_is_over_then_there_is_none(make):
    recycler = make()
    signal.setitimer(signal.ITIMER_REAL, 100)
    recycler.after_task()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD]
)
def test_given_a_task_that_replaces_a_handler_when_it_is_over_then_the_first_one_is_there(
    make, number
):
    seen = []
    signal.signal(number, lambda *_: seen.append("first"))
    recycler = make()
    signal.signal(number, lambda *_: seen.append("second"))
    recycler.after_task()
    signal.raise_signal(number)
    assert seen == ["first"]


@pytest.mark.parametrize("how", [signal.SIG_IGN, signal.SIG_DFL], ids=str)
def test_given_a_task_that_ignores_a_signal_when_it_is_over_then_it_is_handled_as_before(make, how):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("first"))
    recycler = make()
    signal.signal(signal.SIGUSR1, how)
    recycler.after_task()
    signal.raise_signal(signal.SIGUSR1)
    assert seen == ["first"]


def test_given_a_signal_that_came_blocked_when_handlers_are_put_back_then_the_first_one_gets_it(
    make,
):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("first"))
    recycler = make()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("second"))
    recycler.after_task()
    signal.raise_signal(signal.SIGUSR1)
    assert seen == ["first"]


def test_given_a_handler_that_python_does_not_see_when_a_task_replaces_it_then_it_is_put_back():
    """uWSGI sets SIGTERM and SIGUSR1 in C: here a C library's function does."""
    code = """
import ctypes, os, signal, sys
from uwsgi_tasks.config import Settings
from uwsgi_tasks.inflight import Inflight
from uwsgi_tasks.recycling import Recycler
os.mkdir(sys.argv[1] + "/hands")
libc, seen = ctypes.CDLL(None), []
callback = ctypes.CFUNCTYPE(None, ctypes.c_int)
first = callback(lambda number: seen.append("first"))
libc.signal(signal.SIGUSR1, first)
inflight = Inflight(sys.argv[1] + "/inflight", sys.argv[1] + "/hands")
recycler = Recycler(Settings(), inflight, at_once=False)
second = callback(lambda number: seen.append("second"))
libc.signal(signal.SIGUSR1, second)
recycler.after_task()
os.kill(os.getpid(), signal.SIGUSR1)
print(*seen)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            env={**os.environ, "PYTHONPATH": SOURCE},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "first\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_given_a_task_that_changes_the_directory_when_it_is_over_then_a_mule_goes_back(
    make, tmp_path, monkeypatch, at_once
):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    recycler = make(at_once=at_once)
    os.chdir("there")
    recycler.after_task()  # a spooler is taken back by uWSGI itself
    assert os.getcwd() == str(tmp_path if at_once else tmp_path / "there")


def test_given_a_directory_that_is_gone_when_a_task_is_over_then_the_mule_lives(
    make, tmp_path, monkeypatch
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    recycler = make(at_once=True)
    os.rmdir(tmp_path / "gone")
    os.chdir(tmp_path)
    recycler.after_task()
    assert os.getcwd() == str(tmp_path)


def test_given_what_an_import_changed_when_accepted_then_it_is_kept_from_then_on(make):
    recycler = make()
    os.environ["OF_AN_IMPORT"] = "1"
    os.umask(0o007)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    recycler.accept()
    recycler.after_task()
    assert os.environ["OF_AN_IMPORT"] == "1"
    assert os.umask(0o022) == 0o007
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN


def test_given_a_task_that_changes_nothing_when_it_is_over_then_the_process_goes_on(make, told):
    recycler = make()
    for _ in range(3):
        recycler.after_task()
    assert (recycler.reason, told[0]) == ("", [])


# ended


@pytest.mark.parametrize(("tasks", "ends"), [(1, False), (2, False), (3, True)])
def test_given_max_tasks_when_that_many_are_over_then_the_process_ends(make, told, tasks, ends):
    recycler = make(max_tasks=3)
    for _ in range(tasks):
        recycler.after_task()
    assert bool(recycler.reason) is ends
    if ends:
        assert told[1].wait(10)
        assert told[0] == [(True, signal.SIGTERM)]
        assert recycler.reason == "max_tasks=3 is reached"


@pytest.mark.parametrize(("most", "ends"), [(1, True), (1 << 50, False), (None, False)])
def test_given_max_rss_when_it_is_exceeded_then_the_process_ends(make, told, most, ends):
    recycler = make(max_rss=most)
    recycler.after_task()
    assert ("more than max_rss" in recycler.reason) is ends
    assert told[1].wait(10) if ends else not told[0]


def test_given_a_file_that_uwsgi_still_removes_when_the_process_has_to_end_then_it_waits_for_that(
    make, told, tmp_path
):
    path = tmp_path / "file"
    path.touch()
    make(max_tasks=1).after_task(str(path))
    assert told[1].wait(0.05) is False
    path.unlink()
    assert told[1].wait(10) is True


def test_given_a_file_that_stays_when_the_process_has_to_end_then_it_ends_all_the_same(
    make, told, tmp_path, monkeypatch
):
    monkeypatch.setattr(recycling, "_FILE_GOES_S", 0.02)
    (tmp_path / "file").touch()
    make(max_tasks=1).after_task(str(tmp_path / "file"))
    assert told[1].wait(10) is True


class Ended(BaseException):
    """Stands for the end of the process, from which nothing returns."""


@pytest.fixture
def ending(monkeypatch):
    def end_now(self):
        raise Ended(self.reason)

    monkeypatch.setattr(Recycler, "end_now", end_now)


def test_given_a_mule_when_it_has_to_end_then_it_does_so_at_once(make, ending):
    with pytest.raises(Ended, match="max_tasks=1 is reached"):
        make(at_once=True, max_tasks=1).after_task()


def test_given_a_task_that_closed_descriptors_when_it_is_over_then_the_process_ends_and_warns(
    make, ending, inflight, caplog, tmp_path
):
    recycler, path = make(), tmp_path / "file"
    path.touch()
    inflight.was_closed = True
    with pytest.raises(Ended):
        recycler.after_task(str(path))
    assert not path.exists()  # uWSGI, whose descriptors are gone, doesn't come to it
    (record,) = [r for r in caplog.records if r.name == "uwsgi_tasks.recycling"]
    assert (record.levelname, "ends in order: a task closed desc" in record.getMessage()) == (
        "WARNING",
        True,
    )


def test_given_a_reason_to_end_when_the_next_file_comes_then_the_process_ends_before_it(
    fake, make, ending
):
    fake()
    recycler = make(max_tasks=1)
    recycler.reason = "why"
    consumer._recycler[:] = [recycler]
    with pytest.raises(Ended, match="why"):
        handlers.on_spool({"spooler_task_name": b"x"})


def test_given_many_tasks_when_put_back_then_it_takes_microseconds(make):
    recycler, best = make(), 1.0
    for _ in range(200):
        start = time.perf_counter()
        recycler.after_task()
        best = min(best, time.perf_counter() - start)
    assert best < 100e-6
