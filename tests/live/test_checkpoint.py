"""checkpoint(): a run whose process died starts again with what it saved."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from tests.support.ledger import wait_until

APP = """
import os, signal, time
import uwsgi_tasks
from uwsgi_tasks import RetryTaskException, TaskExecutor, get_current_task, task

def tell(event, **fields):
    this = get_current_task()
    note(event, id=this.id, attempt=this.attempt, again=this.redelivered, **fields)

@task
def counts(saves, hold_at=5, end=8):
    '''Count in the buffer; hold at a number until the test lets go.'''
    this = get_current_task()
    tell("started", at=this.buffer.get("done", 0))
    for number in range(this.buffer.get("done", 0), end):
        if number == hold_at:
            tell("held")
            wait_for_file("go")
        tell("step", number=number)
        this.buffer["done"] = number + 1
        if number + 1 <= saves:
            this.checkpoint()
    tell("ended")

@task(retry_count=2)
def second_attempt():
    this = get_current_task()
    tell("started", at=dict(this.buffer))
    if this.attempt == 1:
        this.buffer["from"] = "the first attempt"
        raise RetryTaskException()
    this.buffer["unsaved"] = True
    tell("held")
    wait_for_file("go")

@task
def dies_twice():
    this = get_current_task()
    tell("started", at=dict(this.buffer))
    if not this.redelivered:
        this.buffer["saved"] = 1
        this.checkpoint()
    if this.crashes + this.interruptions < 2:
        os.kill(os.getpid(), signal.SIGKILL)

@task(retry_count=2)
def fails_after_one(how):
    this = get_current_task()
    tell("started", at=dict(this.buffer))
    this.buffer["n"] = this.buffer.get("n", 0) + 1
    this.checkpoint()
    tell("saved")
    this.buffer["n"] += 10
    if how == "fails" or this.attempt == 1 and how == "retries":
        raise RetryTaskException()

@task(executor=TaskExecutor.SPOOLER)
def dies_for_good(how):
    this = get_current_task()
    tell("started", at=dict(this.buffer))
    if this.buffer.get("n"):
        return
    this.buffer["n"] = 3
    this.checkpoint()
    if how == "raises":
        raise ValueError("for good")
    os.kill(os.getpid(), signal.SIGKILL)

@task
def saves_what_cant_be_saved():
    this = get_current_task()
    this.buffer["fine"] = 1
    this.checkpoint()
    this.buffer["lambda"] = lambda: None
    try:
        this.checkpoint()
    except TypeError as error:
        tell("refused", kind=type(error).__name__)
    del this.buffer["lambda"]
"""
both = pytest.mark.parametrize("executor", ["SPOOLER", "MULE"])


def call(server, name, executor, *args):
    return server.eval(f"{name}.options(executor=executor)(*args)", executor=executor, args=args)


def saved(server):
    """Return the ids for which something is saved."""
    uri = f"file:{server.home / 'store.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as store:
        return [row[0] for row in store.execute("SELECT id FROM checkpoints")]


def end(server, row, how):
    """Let the process of a ledger's row die in one of several ways."""
    if how == "kill":
        server.kill(row["pid"])
    elif how == "reload":
        server.reload()
    elif how == "restart":
        server.restart()
    else:
        server.kill_everything()
        server.start_again()


@both
@pytest.mark.parametrize("how", ["kill", "reload", "restart", "everything"])
@pytest.mark.parametrize(("saves", "resumed"), [(3, 3), (0, 0)])
def test_given_a_long_task_that_dies_when_it_runs_again_then_it_resumes_from_the_last_checkpoint(
    uwsgi, executor, how, saves, resumed
):
    server = uwsgi(APP, "mule = true")
    handle = call(server, "counts", executor, saves)
    end(server, server.ledger.wait_one("held"), how)
    second = server.ledger.wait("started", count=2)[1]
    server.touch("go")
    server.ledger.wait_one("ended")
    assert (second["id"], second["at"], second["again"]) == (handle["id"], resumed, True)
    steps = [row["number"] for row in server.ledger.rows("step")]
    assert steps == [*range(5), *range(resumed, 8)]
    wait_until(lambda: saved(server) == [], what="nothing is kept of what is over")


@both
def test_given_no_checkpoint_when_a_second_attempt_dies_then_its_buffer_is_that_of_its_start(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true")
    call(server, "second_attempt", executor)
    server.kill(server.ledger.wait_one("held")["pid"])
    rows = server.ledger.wait("started", count=3)
    server.touch("go")
    assert [row["at"] for row in rows] == [{}, *[{"from": "the first attempt"}] * 2]
    assert [row["attempt"] for row in rows] == [1, 2, 2]


@both
def test_given_a_checkpoint_when_the_run_dies_and_the_next_one_too_then_it_still_holds(
    uwsgi, executor
):
    server = uwsgi(APP, "mule = true")
    call(server, "dies_twice", executor)
    rows = server.ledger.wait("started", count=3)
    assert [row["at"] for row in rows] == [{}, {"saved": 1}, {"saved": 1}]


@both
@pytest.mark.parametrize(
    ("how", "starts"), [("returns", [{}]), ("retries", [{}, {"n": 11}]), ("fails", [{}, {"n": 11}])]
)
def test_given_a_checkpoint_when_the_run_ends_then_its_buffer_goes_on_and_nothing_is_kept(
    uwsgi, executor, how, starts
):
    server = uwsgi(APP, "mule = true")
    handle = call(server, "fails_after_one", executor, how)
    server.ledger.wait("saved", count=len(starts))
    assert [row["at"] for row in server.ledger.rows("started")] == starts
    wait_until(lambda: saved(server) == [], what="nothing is kept of what is over")
    server.wait_empty()
    assert set(server.letters()) == ({handle["id"]} if how == "fails" else set())


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_given_a_dead_letter_when_it_is_retried_then_the_run_has_the_buffer_of_the_last_one(
    uwsgi, how
):
    server = uwsgi(APP, env={"UWSGITASKS_MAX_CRASHES": "1"})
    handle = server.call("dies_for_good", how)
    server.wait_letter(handle["id"])
    server.eval("uwsgi_tasks.dead.retry(id)", id=handle["id"])
    rows = server.ledger.wait("started", count=2)
    assert [row["at"] for row in rows] == [{}, {"n": 3}]


def test_given_a_buffer_that_cant_be_serialised_when_saved_then_the_task_is_told_and_goes_on(uwsgi):
    server = uwsgi(APP)
    server.call("saves_what_cant_be_saved")
    assert server.ledger.wait_one("refused")["kind"] == "ArgumentsError"
    server.wait_empty()
    assert server.letters() == {}


def test_given_a_checkpoint_on_runtime_then_it_keeps_nothing(uwsgi):
    server = uwsgi(APP)
    server.touch("go")
    call(server, "counts", "RUNTIME", 8)
    server.ledger.wait_one("ended")
    assert not (server.home / "store.db").exists() or saved(server) == []
