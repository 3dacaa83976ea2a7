"""Dead letters: what didn't succeed is kept, shown, run again or dropped."""

from __future__ import annotations

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os
from uwsgi_tasks import dead, task, TaskExecutor, get_current_task

SPOOLER = TaskExecutor.SPOOLER

@task(executor=SPOOLER, retry_count=2)
def fails_until(name):
    note("ran", attempt=get_current_task().attempt, id=get_current_task().id)
    if not os.path.exists(os.path.join(os.environ["TEST_DIR"], name)):
        raise KeyError(name)

class Unloadable:
    def __reduce__(self):
        return (int, ("not a number",))

@task(executor=SPOOLER)
def takes(value):
    note("took")

class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")

@task(executor=SPOOLER)
def raises_hostile():
    raise Hostile()

def ghost_call():
    '''Call a task that only this worker knows.'''
    return task(name="nowhere.ghost")(takes.function).options(executor=SPOOLER)("boo")
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP)


@pytest.fixture
def letter(shared, tag):
    """A dead letter of this test's own."""
    handle = shared.call("fails_until", tag)
    return shared.wait_letter(handle["id"])


def test_given_a_task_that_died_when_listed_then_it_is_there_with_its_story(shared, letter):
    listed = {item["id"]: item for item in shared.eval("dead.list()")}
    found = listed[letter["id"]]
    assert found["task"] == "app.fails_until"
    assert [attempt["attempt"] for attempt in found["attempts"]] == [1, 2]
    assert "KeyError" in found["error"]


def test_given_a_task_that_died_when_shown_then_pids_and_times_of_attempts_are_told(shared, letter):
    shown = shared.eval("dead.show(id)", id=letter["id"])
    for attempt in shown["attempts"]:
        assert attempt["pid"] in shared.pids("spooler")
        assert attempt["started"] <= attempt["finished"] <= shown["dead_at"]


def test_given_a_task_that_died_when_shown_then_its_traceback_is_kept(shared, letter):
    shown = shared.eval("dead.show(id)", id=letter["id"])
    assert "in fails_until" in shown["traceback"]


def test_given_a_cured_cause_when_retried_then_it_keeps_its_id_and_counts_on(shared, letter, tag):
    shared.touch(tag)
    shared.eval("dead.retry(id)", id=letter["id"])
    rows = shared.ledger.wait("ran", id=letter["id"], count=3)
    assert [row["attempt"] for row in rows] == [1, 2, 3]


def test_given_a_cured_cause_when_retried_then_the_letter_is_gone(shared, letter, tag):
    shared.touch(tag)
    shared.eval("dead.retry(id)", id=letter["id"])
    wait_until(lambda: letter["id"] not in shared.letters())


def test_given_a_cause_that_stays_when_retried_then_there_is_a_letter_again(shared, letter):
    shared.eval("dead.retry(id)", id=letter["id"])
    shared.ledger.wait("ran", id=letter["id"], count=4)
    assert shared.wait_letter(letter["id"])["task"] == "app.fails_until"


def test_given_a_letter_when_dropped_then_it_is_gone_and_nothing_runs(shared, letter):
    before = len(shared.ledger.rows("ran"))
    shared.eval("dead.drop(id)", id=letter["id"])
    assert letter["id"] not in shared.letters()
    assert len(shared.ledger.rows("ran")) == before


@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_given_an_unknown_id_when_asked_for_then_it_is_a_lookup_error(shared, verb):
    with pytest.raises(RemoteError) as caught:
        shared.eval(f"dead.{verb}('1234567890123456789-0123456789abcdef')")
    assert "LookupError" in caught.value.kinds


def test_given_an_id_that_is_a_path_when_dropped_then_nothing_outside_is_removed(shared):
    victim = shared.write("victim.json", "{}")
    with pytest.raises(RemoteError):
        shared.eval("dead.drop('../../../victim')")
    assert victim.exists()


def test_given_arguments_that_dont_load_when_run_then_it_is_dead_and_says_so(shared):
    handle = shared.eval("takes(Unloadable())")
    letter = shared.wait_letter(handle["id"])
    assert "argument" in letter["reason"]
    assert shared.ledger.rows("took") == []


def test_given_an_exception_without_a_text_when_raised_then_it_is_kept_all_the_same(shared):
    handle = shared.call("raises_hostile")
    assert "Hostile" in shared.wait_letter(handle["id"])["error"]


def test_given_an_unknown_task_when_the_grace_is_over_then_it_is_dead(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-unknown-grace=0.5")
    handle = server.call("ghost_call")
    letter = server.wait_letter(handle["id"])
    assert letter["task"] == "nowhere.ghost"
    assert "unknown" in letter["reason"]


def test_given_an_unknown_task_when_the_grace_lasts_then_it_is_not_dead(uwsgi):
    server = uwsgi(APP)
    handle = server.call("ghost_call")
    server.wait_log("nowhere.ghost")
    server.wait_empty()
    assert server.letters() == {}
    assert server.status(handle) == "scheduled"


@pytest.mark.slow
def test_given_an_unknown_task_when_new_code_knows_it_then_it_runs_after_the_reload(uwsgi):
    server = uwsgi(APP)
    server.call("ghost_call")
    server.wait_log("nowhere.ghost")
    server.write("nowhere.py", "from app import *\ntask(name='nowhere.ghost')(takes.function)\n")
    server.reload()
    server.ledger.wait_one("took", timeout=15.0)


def test_given_a_dead_letter_when_the_server_restarts_then_it_is_still_there(uwsgi):
    server = uwsgi(APP)
    handle = server.call("fails_until", "never")
    server.wait_letter(handle["id"])
    server.restart()
    assert [item["id"] for item in server.eval("dead.list()")] == [handle["id"]]


def test_given_the_home_when_looked_at_then_nobody_else_may_read_it(shared, letter):
    paths = [shared.home, *shared.home.rglob("*")]
    open_ones = [path for path in paths if path.lstat().st_mode & 0o077]
    assert (len(paths) > 3, open_ones) == (True, [])


def test_given_a_shell_outside_when_it_lists_and_retries_then_the_server_runs_it(uwsgi, shell):
    server = uwsgi(APP)
    handle = server.call("fails_until", "cured")
    server.wait_letter(handle["id"])
    server.touch("cured")
    code = "import app; from uwsgi_tasks import dead; [dead.retry(x.id) for x in dead.list()]"
    shell(server, code)
    server.ledger.wait("ran", count=3)
    wait_until(lambda: not server.letters())
