"""Options of a task: when, in what order, where, and what its return value means."""

from __future__ import annotations

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os, time
from datetime import datetime, timedelta, timezone
from uwsgi_tasks import task, TaskExecutor, SPOOL_OK, SPOOL_RETRY, SPOOL_IGNORE

@task(executor=TaskExecutor.SPOOLER)
def ran(tag="x"):
    note("ran", tag=tag, cwd=os.getcwd())

@task(executor=TaskExecutor.SPOOLER)
def blocker():
    note("blocked")
    wait_for_file("go")

@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def without_dir():
    note("ran", cwd=os.getcwd())

@task(executor=TaskExecutor.SPOOLER, working_dir="/usr")
def with_dir():
    note("ran", cwd=os.getcwd())

@task(executor=TaskExecutor.MULE)
def muled_dir():
    note("ran", cwd=os.getcwd())

@task(executor=TaskExecutor.SPOOLER, spooler_return=True)
def codes(*values):
    '''Return the first value at the first run, the second at the second …'''
    ledger = os.environ["TEST_LEDGER"]
    number = len(open(ledger).readlines()) if os.path.exists(ledger) else 0
    note("ran", number=number)
    return values[min(number, len(values) - 1)]

@task(executor=TaskExecutor.SPOOLER)
def plain_codes(value):
    note("ran")
    return value

def due_in(seconds, kind):
    '''Return an instant, and the same as the option takes it.'''
    due = time.time() + seconds
    return due, {
        "int": lambda: int(due) + 1,
        "float": lambda: due,
        "naive": lambda: datetime.fromtimestamp(due),
        "aware": lambda: datetime.fromtimestamp(due, timezone(timedelta(hours=5, minutes=30))),
        "timedelta": lambda: timedelta(seconds=due - time.time()),
    }[kind]()

def call_at(seconds, kind):
    due, at = due_in(seconds, kind)
    ran.options(at=at)("due")
    return at if kind == "int" else due
"""


@pytest.mark.parametrize("kind", ["int", "float", "naive", "aware", "timedelta"])
def test_given_at_when_due_then_it_runs_never_early_and_under_a_second_late(uwsgi, kind):
    server = uwsgi(APP)
    due = server.call("call_at", 0.7, kind)
    assert 0 <= server.ledger.wait_one("ran")["time"] - due < 1.0


def test_given_naive_at_utc_when_due_then_the_datetime_is_read_as_utc(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-naive-at=utc", env={"TZ": "Asia/Kolkata"})
    code = (
        "ran.options(at=datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(seconds=0.7))()"
    )
    server.eval(code)
    server.ledger.wait_one("ran", timeout=3.0)


@pytest.mark.parametrize(
    "at", ["0", "None", "timedelta(0)", "timedelta(seconds=-5)", "time.time() - 9"]
)
def test_given_at_that_means_now_when_called_then_it_runs_at_once(uwsgi, at):
    server = uwsgi(APP)
    server.eval(f"ran.options(at={at})()")
    server.ledger.wait_one("ran", timeout=1.0)


def test_given_a_delayed_task_when_the_spooler_is_busy_then_it_runs_as_soon_as_that_is_free(uwsgi):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.call("call_at", 0.3, "float")
    wait_until(lambda: len(server.spool_files()) == 2, what="it is due, behind the busy one")
    server.touch("go")
    server.ledger.wait_one("ran", timeout=0.5)


def test_given_many_delayed_tasks_when_they_wait_then_the_scanned_directory_stays_empty(uwsgi):
    server = uwsgi(APP)
    server.eval("[ran.options(at=3600 + time.time())() for _ in range(50)] and None")
    assert server.spool_files() == []


@pytest.mark.parametrize("lines", [[], ["spooler-ordered = true"]], ids=["plain", "ordered"])
def test_given_priorities_when_the_spooler_is_free_again_then_smaller_runs_sooner(uwsgi, lines):
    server = uwsgi(APP, *lines)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.eval("[ran.options(priority=p)(str(p)) for p in (30, '5', 1.5, 200, '-2')] and None")
    server.touch("go")
    rows = server.ledger.wait("ran", count=5)
    assert [row["tag"] for row in rows] == ["-2", "1.5", "5", "30", "200"]


@pytest.mark.parametrize("lines", [[], ["spooler-ordered = true"]], ids=["plain", "ordered"])
def test_given_a_task_without_priority_when_others_have_some_then_it_counts_as_100(uwsgi, lines):
    server = uwsgi(APP, *lines)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.eval("(ran.options(priority=500)('500'), ran('none'), ran.options(priority=1)('1'))")
    server.touch("go")
    rows = server.ledger.wait("ran", count=3)
    assert [row["tag"] for row in rows] == ["1", "none", "500"]


def test_given_equal_priorities_when_run_then_the_first_called_runs_first(uwsgi):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    server.eval("[ran.options(priority=7)(n) for n in range(8)] and None")
    server.touch("go")
    assert [row["tag"] for row in server.ledger.wait("ran", count=8)] == list(range(8))


def test_given_spooler_ordered_when_no_priority_is_given_then_it_is_first_in_first_out(uwsgi):
    server = uwsgi(APP, "spooler-ordered = true")
    server.call("blocker")
    server.ledger.wait("blocked")
    server.eval("[ran(n) for n in range(12)] and None")
    server.touch("go")
    assert [row["tag"] for row in server.ledger.wait("ran", count=12)] == list(range(12))


def test_given_nothing_when_called_then_it_runs_in_the_callers_directory(uwsgi):
    server = uwsgi(APP)
    server.eval("(os.chdir('/usr/lib'), ran())")
    assert server.ledger.wait_one("ran")["cwd"] == "/usr/lib"


def test_given_a_working_dir_when_called_then_it_runs_there(uwsgi):
    server = uwsgi(APP)
    server.call("with_dir")
    assert server.ledger.wait_one("ran")["cwd"] == "/usr"


def test_given_no_working_dir_when_called_then_the_directory_is_left_alone(uwsgi):
    server = uwsgi(APP)
    server.eval("(os.chdir('/usr/lib'), without_dir())")
    assert server.ledger.wait_one("ran")["cwd"] == str(server.spool)


def test_given_one_task_in_a_directory_when_the_next_has_none_then_it_is_not_in_that_one(uwsgi):
    server = uwsgi(APP)
    server.call("with_dir")
    server.ledger.wait("ran")
    server.call("without_dir")
    assert server.ledger.wait("ran", count=2)[1]["cwd"] == str(server.spool)


def test_given_a_mule_when_a_task_ran_elsewhere_then_the_mule_is_back_in_its_own_directory(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.eval("muled_dir.options(working_dir='/usr')()")
    server.ledger.wait("ran")
    server.eval("muled_dir.options(working_dir=None)()")
    assert server.ledger.wait("ran", count=2)[1]["cwd"] == str(server.dir)


def test_given_an_explicit_directory_that_is_gone_when_run_then_it_is_a_failure_that_says_so(uwsgi):
    server = uwsgi(APP)
    handle = server.eval("ran.options(working_dir='/gone/for/good')()")
    letter = server.wait_letter(handle["id"])
    assert "/gone/for/good" in letter["error"]
    assert server.ledger.rows() == []


def test_given_the_callers_directory_is_gone_when_run_then_it_runs_with_one_warning(uwsgi):
    server = uwsgi(APP)
    server.call("blocker")
    server.ledger.wait("blocked")
    gone = server.dir / "gone"
    gone.mkdir()
    server.eval("(os.chdir(path), ran('a'), ran('b'), os.chdir('/'))", path=str(gone))
    gone.rmdir()
    server.touch("go")
    server.ledger.wait("ran", count=2)
    assert server.log().count(f"The directory {str(gone)!r}") == 1


def test_given_the_callers_directory_is_gone_already_when_called_then_it_still_runs(uwsgi):
    server = uwsgi(APP)
    gone = server.dir / "gone"
    gone.mkdir()
    server.eval("(os.chdir(path), os.rmdir(path), ran())", path=str(gone))
    server.ledger.wait_one("ran")


@pytest.mark.parametrize("value", ["SPOOL_OK", "None", "True", "7", "'text'", "-3", "-2.0"])
def test_given_spooler_return_when_it_returns_no_retry_code_then_it_ran_once(uwsgi, value):
    server = uwsgi(APP, "spooler-frequency = 1")
    handle = server.eval(f"codes({value})")
    server.wait_status(handle, "ok")
    assert len(server.ledger.rows("ran")) == 1


def test_given_spooler_return_when_it_returns_none_then_the_log_warns(uwsgi):
    server = uwsgi(APP)
    server.eval("codes(None)")
    server.wait_log("app.codes.*None")


def test_given_spooler_return_when_it_returns_retry_then_it_runs_at_the_next_scan(uwsgi):
    server = uwsgi(APP, "spooler-frequency = 1")
    handle = server.eval("codes(SPOOL_RETRY, SPOOL_RETRY, SPOOL_OK)")
    server.ledger.wait("ran", count=3)
    server.wait_status(handle, "ok")
    assert len(server.ledger.rows("ran")) == 3


def test_given_spooler_return_when_it_returns_ignore_then_it_is_a_dead_letter(uwsgi):
    server = uwsgi(APP)
    handle = server.eval("codes(SPOOL_IGNORE)")
    assert "SPOOL_IGNORE" in server.wait_letter(handle["id"])["reason"]


@pytest.mark.parametrize("value", [-1, 0, -2, None, True, False])
def test_given_no_spooler_return_when_it_returns_a_number_then_it_is_no_code(uwsgi, value):
    server = uwsgi(APP, "spooler-frequency = 1")
    handle = server.call("plain_codes", value)
    server.wait_status(handle, "ok")
    assert len(server.ledger.rows("ran")) == 1


def test_given_options_of_one_call_when_the_next_has_none_then_nothing_leaked(uwsgi):
    server = uwsgi(APP)
    server.eval("(ran.options(working_dir='/usr')('first'), ran('second'))")
    server.ledger.wait("ran", count=2)
    assert server.ledger.wait_one("ran", tag="second")["cwd"] == str(server.dir)


def test_given_add_setup_when_called_then_it_holds_for_the_calls_that_follow(uwsgi):
    server = uwsgi(APP)
    server.eval("(ran.add_setup(working_dir='/usr'), ran('a'), ran('b'))")
    rows = server.ledger.wait("ran", count=2)
    assert {row["cwd"] for row in rows} == {"/usr"}


def test_given_add_setup_of_a_delay_when_called_then_it_waits(uwsgi):
    server = uwsgi(APP)
    called = server.eval("(ran.add_setup(at=timedelta(seconds=0.6)), time.time(), ran())")[1]
    assert server.ledger.wait_one("ran")["time"] - called >= 0.6


def test_given_an_unknown_option_when_called_then_a_type_error_suggests_the_right_one(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError, match="did you mean 'priority'") as caught:
        server.eval("ran.options(prioriti=1)()")
    assert "TypeError" in caught.value.kinds
