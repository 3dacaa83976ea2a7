"""Spool files of release 0.7.3: run where the user allows it, kept and never unpickled elsewhere.

The samples in ``data`` were written by that release; see ``make_old_files.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import struct
import time
from pathlib import Path

import pytest

from tests.support.ledger import wait_until

DATA = Path(__file__).with_name("data")
ALLOWED = "set-ph = tasks-accept-unsigned=true"
# The moments and waits of the samples, far in the future, and others of the same length.
FUTURE = (b"4795480879", b"4949080879", b"4949080880", b"4000000000", b"4102542245")
PAST = b"1700000000"
LONG_WAIT = b"\x8a\x05\x00\x5e\xd0\xb2\x00"
NO_WAIT = b"\x8a\x05\x00\x00\x00\x00\x00"

# The module that wrote the samples, under the new release: same names, same options.
OLD_TASKS = """
import datetime
import os
from app_base import note
from uwsgi_tasks import (task, TaskExecutor, SPOOL_OK, SPOOL_RETRY, RetryTaskException,
                         get_current_task, set_uwsgi_callbacks)

set_uwsgi_callbacks()
SPOOLER = TaskExecutor.SPOOLER

def ran(name, args, kwargs):
    current = get_current_task()
    note("ran", task=name, args=args, kwargs=kwargs, cwd=os.getcwd(), buffer=dict(current.buffer),
         left=current.retry_count, id=current.id)

@task(executor=SPOOLER)
def plain(*args, **kwargs):
    ran("plain", args, kwargs)

@task
def bare(*args, **kwargs):
    ran("bare", args, kwargs)

@task(executor=SPOOLER, working_dir=None)
def no_working_dir(*args, **kwargs):
    ran("no_working_dir", args, kwargs)

@task(executor=SPOOLER, retry_count=3, retry_timeout=5)
def retried(*args, **kwargs):
    current = get_current_task()
    ran("retried", args, kwargs)
    current.retry_timeout = 0
    return SPOOL_RETRY

@task(executor=SPOOLER, retry_count=3, retry_timeout=datetime.timedelta(minutes=2))
def retried_delta(*args, **kwargs):
    ran("retried_delta", args, kwargs)
    note("timeout", seconds=get_current_task().retry_timeout)
    return SPOOL_OK

@task(executor=SPOOLER, at=datetime.timedelta(days=36500))
def at_delta(*args, **kwargs):
    ran("at_delta", args, kwargs)

@task(executor=SPOOLER, at=4000000000)
def at_stamp(*args, **kwargs):
    ran("at_stamp", args, kwargs)

@task(executor=SPOOLER, at=datetime.datetime(2100, 1, 2, 3, 4, 5))
def at_datetime(*args, **kwargs):
    ran("at_datetime", args, kwargs)

@task(executor=SPOOLER, spooler_return=True)
def returns_code(*args, **kwargs):
    ran("returns_code", args, kwargs)
    return SPOOL_OK

@task(executor=SPOOLER, priority="7")
def prioritised(*args, **kwargs):
    ran("prioritised", args, kwargs)

@task(executor=SPOOLER, retry_count=5)
def mid_retry(*args, **kwargs):
    ran("mid_retry", args, kwargs)
    current = get_current_task()
    current.buffer["seen"] = [*current.buffer["seen"], "again"]
    return SPOOL_RETRY

@task(executor=SPOOLER, retry_count=5)
def mid_retry_raised(*args, **kwargs):
    ran("mid_retry_raised", args, kwargs)
    raise RetryTaskException(timeout=0)

@task(executor=SPOOLER)
def chained(*args, **kwargs):
    ran("chained", args, kwargs)
"""
APP = "from old_tasks import *\n"
_numbers = itertools.count(1)


def sample(case):
    """Return a sample, due now."""
    data = (DATA / f"{case}.spool").read_bytes()
    for moment in FUTURE:
        data = data.replace(b"at" + struct.pack("<H", 10) + moment, b"at\x0a\x00" + PAST)
    return data.replace(LONG_WAIT, NO_WAIT)


def packet(body=b"", **values):
    """Return a file of the old format with other content."""
    pairs = {"args": pickle.dumps(()), "kwargs": pickle.dumps({}), "setup": pickle.dumps({})}
    pairs = {"function_name": b"old_tasks.plain", **pairs, **values}
    content = b"".join(
        struct.pack("<H", len(key)) + key.encode() + struct.pack("<H", len(value)) + value
        for key, value in pairs.items()
    )
    return struct.pack("<BHB", 17, len(content), 0) + content + body


def put(server, data, folder=""):
    """Write a file into the spool as uWSGI does, so that it is whole when it is there."""
    number = next(_numbers)
    name = f"uwsgi_spoolfile_on_host_1_{number}_1_1700000000_{number}"
    where = server.spool / folder
    where.mkdir(parents=True, exist_ok=True)
    temporary = server.dir / f"part{number}"
    temporary.write_bytes(data)
    os.rename(temporary, where / name)
    return where / name


def with_files(uwsgi, *lines, data=(), folder=""):
    """Start a server whose spool has files from before."""
    files = {"old_tasks.py": OLD_TASKS}
    server = uwsgi(APP, *lines, files=files, started=False)
    for content in data:
        put(server, content, folder)
    return server.start()


CASES = {
    "plain": ("plain", ["one", 2, 3.5, None], {}),
    "plain_empty": ("plain", [], {}),
    "kwargs": ("plain", ["one"], {"flag": True, "when": "datetime.date(2024, 2, 29)"}),
    "bytes": ("plain", ["b'\\x00\\xff'", "é"], {}),
    "bare": ("bare", [1], {}),
    "no_working_dir": ("no_working_dir", [1], {}),
    "retried_delta": ("retried_delta", ["a"], {}),
    "at_delta": ("at_delta", ["late"], {}),
    "at_stamp": ("at_stamp", ["late"], {}),
    "at_datetime": ("at_datetime", ["late"], {}),
    "returns_code": ("returns_code", ["a"], {}),
    "chained": ("chained", ["second"], {"step": 2}),
}


@pytest.fixture(scope="module")
def allowed(module_uwsgi):
    """A server that was allowed to run the samples that lay in its spool."""
    server = with_files(module_uwsgi, ALLOWED, data=[sample(case) for case in CASES])
    server.ledger.wait("ran", count=len(CASES))
    server.wait_empty()
    return server


@pytest.mark.parametrize("case", CASES)
def test_given_an_old_file_when_allowed_then_it_runs_once_with_its_arguments(allowed, case):
    name, args, kwargs = CASES[case]
    rows = allowed.ledger.rows("ran", task=name, args=args, kwargs=kwargs)
    assert len(rows) == 1, allowed.ledger.rows()


def test_given_old_files_when_they_ran_then_no_letter_is_left(allowed):
    assert allowed.letters() == {}


def test_given_an_old_working_dir_when_allowed_then_the_task_runs_there(allowed):
    assert {row["cwd"] for row in allowed.ledger.rows("ran", task="plain")} == {"/tmp"}


def test_given_an_old_buffer_when_allowed_then_the_task_has_it(allowed):
    assert allowed.ledger.wait_one("ran", task="chained")["buffer"] == {"steps": 1}


def test_given_an_old_timedelta_when_allowed_then_the_wait_is_the_same(allowed):
    assert allowed.ledger.wait_one("timeout")["seconds"] == 120


def test_given_a_fresh_retry_count_when_allowed_then_it_runs_three_times_in_all(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[sample("retried")])
    letter = server.wait_letter()
    rows = server.ledger.rows("ran")
    assert ([row["left"] for row in rows], letter["task"]) == ([3, 2, 1], "old_tasks.retried")


def test_given_an_old_retry_when_allowed_then_it_runs_as_often_as_it_still_may(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[sample("mid_retry")])
    server.wait_letter()
    assert [row["left"] for row in server.ledger.rows("ran")] == [4, 3, 2, 1]


def test_given_an_old_retry_when_it_goes_on_then_its_buffer_goes_on_too(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[sample("mid_retry")])
    rows = server.ledger.wait("ran", count=2)
    assert [row["buffer"]["seen"] for row in rows[:2]] == [["first"], ["first", "again"]]


def test_given_an_old_retry_when_it_goes_on_then_it_keeps_its_id(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[sample("mid_retry")])
    rows = server.ledger.wait("ran", count=4)
    assert len({row["id"] for row in rows}) == 1


def test_given_an_old_retry_that_was_raised_when_allowed_then_it_goes_on(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[sample("mid_retry_raised")])
    server.wait_letter()
    rows = server.ledger.rows("ran")
    assert ([row["left"] for row in rows], rows[0]["buffer"]) == ([4, 3, 2, 1], {"n": 1})


def test_given_an_old_priority_when_ordered_then_it_runs(uwsgi):
    server = with_files(
        uwsgi, ALLOWED, "spooler-ordered = true", data=[sample("priority")], folder="7"
    )
    assert server.ledger.wait_one("ran")["task"] == "prioritised"


def test_given_large_old_arguments_when_allowed_then_they_are_whole(uwsgi):
    body = pickle.dumps({"args": ("x" * 200_000,), "kwargs": {"k": 1}}, protocol=4)
    server = with_files(uwsgi, ALLOWED, data=[packet(body)])
    row = server.ledger.wait_one("ran")
    assert (len(row["args"][0]), row["kwargs"]) == (200_000, {"k": 1})


def test_given_an_old_moment_that_is_to_come_when_allowed_then_it_is_not_early(uwsgi):
    moment = int(time.time()) + 3
    server = with_files(uwsgi, ALLOWED, data=[packet(at=str(moment).encode())])
    row = server.ledger.wait_one("ran")
    assert moment <= row["time"] < moment + 1.5


def test_given_an_old_moment_in_a_far_year_when_allowed_then_it_waits(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[(DATA / "at_stamp.spool").read_bytes()])
    server.wait_empty()
    assert (server.ledger.rows("ran"), server.letters()) == ([], {})


# not allowed


@pytest.mark.parametrize("case", ["plain", "mid_retry", "at_delta"])
def test_given_an_old_file_when_not_allowed_then_it_is_dead_and_names_the_setting(uwsgi, case):
    server = with_files(uwsgi, data=[sample(case)])
    letter = server.wait_letter()
    assert "accept_unsigned" in letter["error"]
    assert server.ledger.rows("ran") == []


def test_given_an_old_file_when_not_allowed_then_its_content_is_kept(uwsgi):
    server = with_files(uwsgi, data=[sample("plain")])
    letter = server.wait_letter()
    content = (server.home / "dead" / f"{letter['id']}.message").read_bytes()
    assert b"old_tasks.plain" in content


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("where", ["args", "kwargs", "setup", "body"])
def test_given_a_file_that_lies_in_wait_when_not_allowed_then_it_is_not_unpickled(
    uwsgi, tmp_path, where
):
    bomb = pickle.dumps(Bomb(str(tmp_path / "went_off")))
    server = with_files(uwsgi, data=[packet(bomb) if where == "body" else packet(**{where: bomb})])
    server.wait_letter()
    server.wait_empty()
    assert not (tmp_path / "went_off").exists()


def test_given_a_file_that_arrives_later_when_allowed_then_it_is_dead_unread(uwsgi, tmp_path):
    server = with_files(uwsgi, ALLOWED, "spooler-frequency = 1")
    put(server, packet(args=pickle.dumps(Bomb(str(tmp_path / "went_off")))))
    letter = server.wait_letter()
    assert "when the server starts" in letter["error"]
    assert not (tmp_path / "went_off").exists()


def test_given_a_sample_that_arrives_later_when_allowed_then_it_does_not_run(uwsgi):
    server = with_files(uwsgi, ALLOWED, "spooler-frequency = 1", data=[sample("bare")])
    server.ledger.wait("ran", task="bare")
    put(server, sample("plain"))
    server.wait_letter()
    assert server.ledger.rows("ran", task="plain") == []


# allowed, and yet not to be run


@pytest.mark.parametrize("name", ["os.getcwd", "old_tasks.note", "old_tasks.gone", "no.module"])
def test_given_a_function_that_is_no_task_when_allowed_then_it_is_dead(uwsgi, name):
    grace = "set-ph = tasks-unknown-grace=0.3"
    server = with_files(uwsgi, ALLOWED, grace, data=[packet(function_name=name.encode())])
    assert server.wait_letter()["task"] == name


@pytest.mark.parametrize(
    "values",
    [
        {"setup": b"\x80\x04\x95\xe0\x00"},
        {"args": b"no pickle"},
        {"kwargs": pickle.dumps(5)},
        {"function_name": b"\xff\xfe"},
        {"at": b"soon"},
    ],
)
def test_given_an_old_file_that_is_broken_when_allowed_then_it_is_dead(uwsgi, values):
    server = with_files(uwsgi, ALLOWED, data=[packet(**values)])
    server.wait_letter()
    wait_until(lambda: not server.spool_files())


def test_given_old_files_when_the_server_restarts_then_what_waited_is_still_waiting(uwsgi):
    server = with_files(uwsgi, ALLOWED, data=[(DATA / "at_stamp.spool").read_bytes()])
    server.wait_empty()
    server.restart()
    assert json.dumps(server.letters()) == "{}"
