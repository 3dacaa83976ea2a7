"""Results, waiting, progress, log lines, cancelling of what runs, and what is read from outside."""

from __future__ import annotations

import ast
import statistics
import time

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import logging
import time
from uwsgi_tasks import TaskCancelled, TaskExecutor, get, get_current_task, observe, task

@task(executor=TaskExecutor.SPOOLER, store_result=True)
def add(a, b):
    return a + b

@task(executor=TaskExecutor.MULE, store_result=True)
def muled():
    return "muled"

@task(executor=TaskExecutor.SPOOLER)
def forgets():
    return 1

@task(executor=TaskExecutor.SPOOLER, store_result=True)
def large(size):
    return b"x" * size

@task(executor=TaskExecutor.SPOOLER, store_result=True)
def unfit():
    return lambda: None

@task(executor=TaskExecutor.SPOOLER, store_result=True)
def fails():
    logging.getLogger("app").warning("on my way")
    raise KeyError("lost")

@task(executor=TaskExecutor.SPOOLER, store_result=True, retry_count=2)
def succeeds_later():
    if get_current_task().attempt == 1:
        raise ValueError("not yet")
    return "at last"

@task(executor=TaskExecutor.SPOOLER)
def blocker(name="go"):
    note("blocked", name=name)
    wait_for_file(name)

@task(executor=TaskExecutor.SPOOLER)
def counts(number):
    for _ in get_current_task().progress(range(number)):
        note("counted")
        time.sleep(0.02)

@task(executor=TaskExecutor.SPOOLER)
def cleans_up():
    try:
        note("blocked")
        wait_for_file("go")
    except TaskCancelled:
        note("cleaned")
        raise

@task(executor=TaskExecutor.SPOOLER)
def carries_on():
    while True:
        try:
            note("blocked")
            wait_for_file("go")
            return
        except Exception:
            pass

def wakes(number):
    took = []
    for n in range(number):
        started = time.perf_counter()
        assert add(n, 1).result(5) == n + 1
        took.append(time.perf_counter() - started)
        time.sleep(0.01)
    return took

def awaits():
    import asyncio

    async def both():
        return [*await asyncio.gather(add(1, 2), add(3, 4))]

    return asyncio.run(both())

def failure(handle):
    try:
        handle.result(10)
    except Exception as error:
        return [type(error).__name__, error.state, error.reason, str(error)]
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP, "mule = true")


READ = """
from uwsgi_tasks import get, observe
def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
print(repr(plain(%s)))
"""


@pytest.fixture
def read_from(shell):
    """Evaluate an expression outside of uWSGI, as another program would; tuples are lists."""
    return lambda server, code: ast.literal_eval(shell(server, READ % code))


@pytest.fixture
def read(shared, read_from):
    return lambda code: read_from(shared, code)


def test_given_a_task_that_keeps_its_result_when_asked_then_it_is_there(shared):
    assert shared.eval("add(1, 2).result(10)") == 3


def test_given_a_mules_task_when_its_result_is_asked_then_it_is_there(shared):
    assert shared.eval("muled().result(10)") == "muled"


def test_given_one_who_waits_when_the_task_ends_then_the_result_is_there_within_5_ms(shared):
    assert statistics.median(shared.eval("wakes(50)")) <= 0.005


def test_given_an_event_loop_when_handles_are_awaited_then_it_gets_both_results(shared):
    assert shared.eval("awaits()") == [3, 7]


def test_given_a_quick_task_when_called_and_waited_for_then_it_is_over(shared):
    code = "(lambda h: [h.status(), h.result()])(add.call_and_wait(1, b=2, timeout=5))"
    assert shared.eval(code) == ["ok", 3]


def test_given_a_task_that_fails_when_its_result_is_asked_then_its_traceback_comes(shared):
    kind, state, reason, text = shared.eval("failure(fails())")
    assert (kind, state, reason) == ("TaskFailed", "dead", "it raised an exception")
    assert 'raise KeyError("lost")' in text


def test_given_a_task_that_keeps_no_result_when_asked_then_the_option_is_named(shared):
    with pytest.raises(RemoteError) as caught:
        shared.eval("forgets().result(10)")
    assert (caught.value.kind, "store_result=True" in caught.value.message) == (
        "NotAvailable",
        True,
    )


def test_given_the_option_at_the_call_when_asked_then_the_result_is_there(shared):
    assert shared.eval("forgets.options(store_result=True)().result(10)") == 1


@pytest.mark.parametrize(
    ("call", "why"), [("large(2 << 20)", "max_result_bytes"), ("unfit()", "pickle can't hold it")]
)
def test_given_a_result_that_isnt_kept_when_asked_then_the_task_is_ok_and_it_is_told_why(
    shared, call, why
):
    handle = shared.eval(call)
    shared.wait_status(handle, "ok")
    with pytest.raises(RemoteError, match=why):
        shared.eval("get(id).result(1)", id=handle["id"])


def test_given_a_task_that_fails_when_read_then_lines_attempts_and_reason_are_there(shared, read):
    handle = shared.eval("fails()")
    shared.wait_status(handle, "dead")
    run = read(f"observe.run({handle['id']!r})._asdict()")
    assert [line.partition(" ")[2] for line in run["logs"]] == ["WARNING app: on my way"]
    assert (run["task"], run["state"], run["error"]) == ("app.fails", "dead", "KeyError: 'lost'")
    assert (len(run["attempts"]), run["pid"] > 0) == (1, True)


def test_given_a_retried_task_when_read_then_both_attempts_are_in_its_story(shared, read):
    handle = shared.eval("succeeds_later()")
    shared.wait_status(handle, "ok")
    run = read(f"observe.run({handle['id']!r})._asdict()")
    assert [attempt[4] for attempt in run["attempts"]] == ["ValueError: not yet", ""]


def test_given_a_task_that_tells_its_progress_when_read_outside_then_it_is_seen(shared, read):
    handle = shared.eval("counts(500)")
    shared.ledger.wait("counted", count=10)
    run = read(f"observe.run({handle['id']!r})._asdict()")
    done, total, _, _, rate, left = run["progress"]
    assert (run["state"], total, 5 < done < 500, rate > 5, left > 1) == (
        "running",
        500,
        True,
        True,
        True,
    )
    shared.eval("get(id).cancel() and get(id).wait(5)", id=handle["id"])


def test_given_a_task_in_hand_when_cancelled_from_outside_then_it_is_stopped(shared, read):
    handle = shared.eval("cleans_up()")
    before = len(shared.ledger.rows("cleaned"))
    shared.wait_status(handle, "running")
    shared.ledger.wait("blocked")
    spooler = shared.pids("spooler")
    time_before = time.monotonic()
    code = f"[get({handle['id']!r}).cancel(), get({handle['id']!r}).wait(10)]"
    assert read(code) == [True, True]
    assert time.monotonic() - time_before < 5
    assert shared.status(handle) == "cancelled"
    assert len(shared.ledger.rows("cleaned")) == before + 1
    assert shared.pids("spooler") == spooler


def test_given_a_loop_that_survives_exceptions_when_cancelled_then_it_ends(shared):
    handle = shared.eval("carries_on()")
    shared.wait_status(handle, "running")
    time.sleep(0.1)
    assert shared.eval("[get(id).cancel(), get(id).wait(10)]", id=handle["id"]) == [True, True]
    assert shared.status(handle) == "cancelled"


def test_given_a_task_in_hand_when_killed_then_it_is_cancelled_and_doesnt_run_again(uwsgi):
    server = uwsgi(APP)
    handle = server.eval("blocker()")
    server.ledger.wait_one("blocked")
    assert server.eval("[get(id).cancel(kill=True), get(id).wait(10)]", id=handle["id"]) == [
        True,
        True,
    ]
    assert server.eval("add(1, 2).result(10)") == 3
    server.wait_empty()
    assert (server.status(handle), len(server.ledger.rows("blocked"))) == ("cancelled", 1)
    assert server.eval("observe.run(id).reason", id=handle["id"]) == (
        "cancelled: its process was killed"
    )
    assert server.eval("observe.status().counters['crashed']") == 0


def test_given_a_server_that_is_down_when_read_then_all_is_told(uwsgi, read_from):
    server = uwsgi(APP)
    ended = [server.eval(code) for code in ("add(1, 2)", "fails()")]
    for handle, state in zip(ended, ("ok", "dead"), strict=True):
        server.wait_status(handle, state)
    running = server.eval("blocker()")
    server.ledger.wait_one("blocked")
    queued, later = server.eval("add(3, 4)"), server.eval("add.options(at=time.time() + 99)(5, 6)")
    server.kill_everything()
    states = read_from(server, "{run.id: (run.state, run.task) for run in observe.runs()}")
    assert states[ended[0]["id"]] == ["ok", "app.add"]
    assert states[ended[1]["id"]] == ["dead", "app.fails"]
    assert states[running["id"]] == ["queued", "app.blocker"]
    assert states[queued["id"]] == ["queued", "app.add"]
    assert states[later["id"]] == ["scheduled", "app.add"]
    assert read_from(server, f"get({ended[0]['id']!r}).result(0)") == 3
    status = read_from(server, "observe.status()._asdict()")
    assert (status["queued"], status["scheduled"], status["finished"]["ok"]) == (2, 1, 1)
    server.start_again()
    server.touch("go")
    assert server.eval("get(id).wait(10) and get(id).status()", id=running["id"]) == "ok"


@pytest.mark.parametrize("state", ["ok", "dead", "cancelled", "expired"])
def test_given_an_end_when_listed_by_its_state_then_it_is_there_with_a_reason(shared, read, state):
    calls = {
        "ok": "add(1, 1)",
        "dead": "fails()",
        "cancelled": "add.options(at=time.time() + 99)(1, 1)",
        "expired": "add.options(at=time.time() + 0.3, expires=0.4)(1, 1)",
    }
    if state == "expired":
        shared.eval("blocker('later')")
        shared.ledger.wait("blocked", name="later")
    handle = shared.eval(calls[state])
    if state == "cancelled":
        assert shared.eval("get(id).cancel()", id=handle["id"])
    if state == "expired":
        time.sleep(0.5)
        shared.touch("later")
    shared.wait_status(handle, state)
    found = wait_until(
        lambda: [r for r in read(f"observe.runs(state={state!r})") if r[0] == handle["id"]]
    )
    assert found[0][2] == state
    assert state == "ok" or found[0][14]


def test_given_runs_older_than_the_limit_when_time_goes_by_then_they_are_forgotten(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-history-max-age=1")
    handle = server.eval("add(1, 2)")
    server.wait_status(handle, "ok")
    server.eval("observe.status()")
    time.sleep(1.2)
    server.restart()
    wait_until(lambda: server.eval("observe.status().finished['ok']") == 0, 10)


def test_given_no_history_when_a_task_ends_then_its_handle_still_tells(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-history=false")
    handle = server.eval("forgets()")
    server.wait_status(handle, "ok")
    assert not (server.home / "journal").exists()


def test_given_a_spooler_killed_before_it_wrote_the_history_then_the_end_is_still_told(uwsgi):
    source = APP + (
        "from uwsgi_tasks import history\n"
        "def dies(*args):\n"
        "    import os, signal\n"
        "    if not os.path.exists(os.environ['TEST_DIR'] + '/died'):\n"
        "        open(os.environ['TEST_DIR'] + '/died', 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "history.History.note_plain = dies\n"
    )
    server = uwsgi(source)
    handle = server.eval("forgets()")
    wait_until(lambda: (server.dir / "died").exists())
    server.wait_empty()
    assert server.status(handle) == "ok"
    assert server.eval("observe.run(id).state", id=handle["id"]) == "ok"


def test_given_an_id_that_never_was_when_asked_then_it_is_gone(shared):
    assert shared.eval("get('1700000000000000000-00000000000000aa').status()") == "gone"
