"""Which executor a task goes to, and what the log says when it isn't the one asked for."""

from __future__ import annotations

import pytest

from tests.support.server import RemoteError

APP = """
from uwsgi_tasks import task, TaskExecutor

def ran(tag):
    note("ran", tag=tag, place=place())
    return "result"

@task
def auto(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.SPOOLER)
def spooled(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.MULE)
def muled(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.RUNTIME)
def inline(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.SPOOLER, strict=True)
def strictly_spooled(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.MULE, strict=True)
def strictly_muled(tag="x"):
    return ran(tag)

@task(executor=TaskExecutor.RUNTIME)
def fails_inline():
    raise KeyError("inline")
"""


@pytest.mark.parametrize(
    ("spooler", "mule", "task", "expected"),
    [
        (True, True, "auto", "spooler"),
        (True, False, "auto", "spooler"),
        (False, True, "auto", "mule1"),
        (False, False, "auto", "worker"),
        (True, True, "spooled", "spooler"),
        (False, True, "spooled", "mule1"),
        (False, False, "spooled", "worker"),
        (True, True, "muled", "mule1"),
        (True, False, "muled", "spooler"),
        (False, False, "muled", "worker"),
        (True, True, "inline", "worker"),
    ],
)
def test_given_these_processes_when_called_then_the_preferred_executor_runs_it(
    uwsgi, spooler, mule, task, expected
):
    server = uwsgi(APP, *["mule = true"] * mule, spooler=spooler)
    server.call(task)
    assert server.ledger.wait_one("ran")["place"] == expected


@pytest.mark.parametrize(
    ("spooler", "mule", "task", "executor"),
    [
        (True, True, "auto", "SPOOLER"),
        (False, True, "auto", "MULE"),
        (False, False, "auto", "RUNTIME"),
        (False, True, "spooled", "MULE"),
    ],
)
def test_given_a_call_when_placed_then_the_handle_names_the_executor(
    uwsgi, spooler, mule, task, executor
):
    server = uwsgi(APP, *["mule = true"] * mule, spooler=spooler)
    assert server.call(task)["executor"] == executor


@pytest.mark.parametrize(("task", "line"), [("spooled", "spooler = "), ("muled", "mule = true")])
def test_given_no_process_for_it_when_called_twice_then_one_warning_names_the_ini_line(
    uwsgi, task, line
):
    server = uwsgi(APP, spooler=False)
    server.call(task)
    server.call(task)
    warnings = [x for x in server.log().splitlines() if f"app.{task}" in x and line in x]
    assert len(warnings) == 1


def test_given_auto_without_spooler_when_called_then_nothing_is_warned_of(uwsgi):
    server = uwsgi(APP, "mule = true", spooler=False)
    server.call("auto")
    server.ledger.wait("ran")
    assert "app.auto" not in server.log()


@pytest.mark.parametrize("task", ["strictly_spooled", "strictly_muled"])
def test_given_strict_when_its_executor_is_missing_then_it_is_refused_and_not_run(uwsgi, task):
    server = uwsgi(APP, spooler=False)
    with pytest.raises(RemoteError) as caught:
        server.call(task)
    assert caught.value.kind == "NotAvailable"
    assert server.ledger.rows() == []


@pytest.mark.parametrize("how", ["ini", "environment", "configure"])
def test_given_the_setting_strict_when_the_executor_is_missing_then_it_is_refused(uwsgi, how):
    lines = ["set-ph = tasks-strict=true"] if how == "ini" else []
    env = {"UWSGITASKS_STRICT": "1"} if how == "environment" else {}
    source = APP + "import uwsgi_tasks; uwsgi_tasks.configure(strict=True)\n" * (how == "configure")
    server = uwsgi(source, *lines, spooler=False, env=env)
    with pytest.raises(RemoteError) as caught:
        server.call("spooled")
    assert caught.value.kind == "NotAvailable"


def test_given_runtime_when_called_then_the_result_is_on_the_handle(uwsgi):
    server = uwsgi(APP)
    assert server.eval("inline('x').result()") == "result"


def test_given_runtime_when_it_raises_then_the_exception_reaches_the_caller(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.call("fails_inline")
    assert (caught.value.kind, caught.value.message) == ("KeyError", "'inline'")


def test_given_runtime_when_arguments_cannot_be_sent_then_it_is_refused_as_in_production(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.eval("inline(lambda: 1)")
    assert caught.value.kind == "ArgumentsError"


def test_given_run_when_called_then_the_plain_function_runs_here(uwsgi):
    server = uwsgi(APP)
    assert server.eval("spooled.run('x')") == "result"
    assert server.ledger.wait_one("ran")["place"] == "worker"


@pytest.mark.parametrize("word", ["mule", "runtime", "spooler"])
def test_given_the_setting_executor_when_auto_is_called_then_it_decides(uwsgi, word):
    server = uwsgi(APP, "mule = true", f"set-ph = tasks-executor={word}")
    server.call("auto")
    expected = {"mule": "mule1", "runtime": "worker", "spooler": "spooler"}[word]
    assert server.ledger.wait_one("ran")["place"] == expected


def test_given_arguments_that_cannot_be_sent_when_called_then_nothing_is_written(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.eval("spooled(tag=lambda: 1)")
    assert caught.value.kind == "ArgumentsError"
    assert "'tag'" in caught.value.message
    assert [p.name for p in server.spool.iterdir() if "uwsgi_spoolfile" in p.name] == []


def test_given_the_master_at_import_when_it_calls_a_task_then_it_runs(uwsgi):
    server = uwsgi(APP + "spooled('at import')\n")
    assert server.ledger.wait_one("ran", tag="at import")["place"] == "spooler"


def test_given_a_task_that_calls_a_task_when_run_in_the_mule_then_the_spooler_gets_it(uwsgi):
    server = uwsgi(
        APP + "@task(executor=TaskExecutor.MULE)\ndef outer(): auto('inner')\n", "mule = true"
    )
    server.call("outer")
    assert server.ledger.wait_one("ran", tag="inner")["place"] == "spooler"
