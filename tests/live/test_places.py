"""Several spoolers, mules and farms; servers that load lazily, or have no master."""

from __future__ import annotations

import pytest

from tests.support.server import RemoteError

APP = """
import os
from uwsgi_tasks import configure, task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def spooled(tag="x"):
    note("ran", tag=tag, place=place())

@task(executor=TaskExecutor.MULE)
def muled(tag="x"):
    note("ran", tag=tag, place=place())

@task
def auto(tag="x"):
    note("ran", tag=tag, place=place())

@task(executor=TaskExecutor.SPOOLER, queue="mail")
def mailed(tag="x"):
    note("ran", tag=tag, place=place())

note("imported", place=place())
"""
TWO_SPOOLERS = ("spooler = {dir}/one", "spooler = {dir}/two")


def test_given_two_spoolers_when_a_call_names_the_second_then_that_one_runs_it(uwsgi):
    server = uwsgi(APP, *TWO_SPOOLERS)
    server.eval("spooled.options(spooler=path)()", path=str(server.dir / "two"))
    assert server.ledger.wait_one("ran")["pid"] in server.pids("spooler", server.dir / "two")


def test_given_two_spoolers_when_none_is_named_then_the_first_runs_it(uwsgi):
    server = uwsgi(APP, *TWO_SPOOLERS)
    server.call("spooled")
    assert server.ledger.wait_one("ran")["pid"] in server.pids("spooler", server.dir / "one")


@pytest.mark.parametrize("how", ["ini", "configure"])
def test_given_a_queue_tied_to_a_spooler_when_called_then_that_one_runs_it(uwsgi, how):
    source, lines = APP, list(TWO_SPOOLERS)
    if how == "ini":
        lines.append('set-ph = tasks-queues={"mail": "{dir}/two"}')
    else:
        source += "configure(queues={'mail': os.environ['TEST_DIR'] + '/two'})\n"
    server = uwsgi(source, *lines)
    server.call("mailed")
    assert server.ledger.wait_one("ran")["pid"] in server.pids("spooler", server.dir / "two")


def test_given_an_unknown_spooler_when_called_then_the_error_names_the_configured_ones(uwsgi):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.eval("spooled.options(spooler='/nowhere')()")
    assert "ValueError" in caught.value.kinds
    assert str(server.spool) in caught.value.message


def test_given_two_spooler_processes_on_one_directory_when_both_are_needed_then_both_run(uwsgi):
    source = APP + (
        "@task\ndef waits(name):\n    note('started', name=name)\n    wait_for_file('go')\n"
    )
    server = uwsgi(source, "spooler-processes = 2")
    server.call("waits", "a")
    server.call("waits", "b")
    rows = server.ledger.wait("started", count=2)
    server.touch("go")
    assert {row["pid"] for row in rows} == set(server.pids("spooler"))


def test_given_a_mule_number_when_called_then_that_mule_runs_it(uwsgi):
    server = uwsgi(APP, "mules = 3")
    server.eval("muled.options(mule=2)()")
    assert server.ledger.wait_one("ran")["place"] == "mule2"


def test_given_a_farm_when_called_then_a_mule_of_it_runs_it(uwsgi):
    server = uwsgi(APP, "mule = true", "mule = true", "mule = true", "farm = slow:3")
    server.eval("muled.options(mule='slow')()")
    assert server.ledger.wait_one("ran")["place"] == "mule3"


@pytest.mark.parametrize("mule", [3, 256, 257, 1_000_000, -1, "nofarm", "", 1.5, True, "../x\0"])
def test_given_a_wrong_mule_when_called_then_it_is_refused_and_the_worker_lives(uwsgi, mule):
    server = uwsgi(APP, "mules = 2")
    worker = server.eval("os.getpid()")
    with pytest.raises(RemoteError) as caught:
        server.eval("muled.options(mule=mule)()", mule=mule)
    assert {"OptionValueError", "OptionError"} & set(caught.value.kinds)
    assert server.eval("os.getpid()") == worker
    assert server.ledger.rows("ran") == []


@pytest.mark.parametrize("priority", ["../../evil", "high", "", "nan", "inf", [], True])
def test_given_a_priority_that_is_no_number_when_called_then_it_is_refused(uwsgi, priority):
    server = uwsgi(APP)
    with pytest.raises(RemoteError) as caught:
        server.eval("spooled.options(priority=priority)()", priority=priority)
    assert {"OptionValueError", "OptionError"} & set(caught.value.kinds)
    assert server.spool_files() == []


def test_given_only_an_external_spooler_when_called_then_its_instance_runs_it(uwsgi):
    consumer = uwsgi(APP)
    producer = uwsgi(APP, f"spooler-external = {consumer.spool}", spooler=False)
    handle = producer.call("auto", "from outside")
    row = consumer.ledger.wait_one("ran", tag="from outside", timeout=3.0)
    assert handle["executor"] == "SPOOLER"
    assert row["pid"] in consumer.pids("spooler")


def test_given_a_task_of_an_external_spooler_when_delayed_then_its_instance_runs_it_in_time(uwsgi):
    consumer = uwsgi(APP)
    producer = uwsgi(APP, f"spooler-external = {consumer.spool}", spooler=False)
    due = producer.eval("(due := __import__('time').time() + 0.7, auto.options(at=due)('d'))")[0]
    assert 0 <= consumer.ledger.wait_one("ran", tag="d")["time"] - due < 1.0


def test_given_an_own_and_an_external_spooler_when_none_is_named_then_the_own_one_runs_it(uwsgi):
    other = uwsgi(APP)
    server = uwsgi(APP, f"spooler-external = {other.spool}", "spooler = {dir}/own")
    server.call("auto")
    assert server.ledger.wait_one("ran")["pid"] in server.pids("spooler")


def test_given_an_own_and_an_external_spooler_when_the_other_is_named_then_its_instance_runs_it(
    uwsgi,
):
    other = uwsgi(APP)
    server = uwsgi(APP, f"spooler-external = {other.spool}", "spooler = {dir}/own")
    server.eval("auto.options(spooler=path)()", path=str(other.spool))
    assert other.ledger.wait_one("ran", timeout=3.0)["pid"] in other.pids("spooler")


def test_given_lazy_apps_alone_when_called_then_it_runs_here_and_the_log_names_the_cures(uwsgi):
    server = uwsgi(APP, "lazy-apps = true")
    server.call("spooled")
    assert server.ledger.wait_one("ran")["place"] == "worker"
    warning = server.wait_log("app.spooled")
    assert "spooler-import" in warning
    assert "shared-import" in warning


def test_given_lazy_apps_and_a_mule_when_called_then_it_never_goes_to_the_mule(uwsgi):
    server = uwsgi(APP, "lazy-apps = true", "mule = true", spooler=False)
    server.call("muled")
    assert server.ledger.wait_one("ran")["place"] == "worker"
    assert "shared-import" in server.wait_log("app.muled")


def test_given_lazy_apps_with_spooler_import_when_called_then_the_spooler_runs_it(uwsgi):
    server = uwsgi(APP, "lazy-apps = true", "spooler-import = app")
    server.ledger.wait("imported", place="spooler")
    server.call("spooled")
    assert server.ledger.wait_one("ran")["place"] == "spooler"


@pytest.mark.parametrize(("task", "expected"), [("spooled", "spooler"), ("muled", "mule1")])
def test_given_lazy_apps_with_shared_import_when_called_then_it_runs_where_it_should(
    uwsgi, task, expected
):
    server = uwsgi(APP, "lazy-apps = true", "shared-import = app", "mule = true")
    server.call(task)
    assert server.ledger.wait_one("ran")["place"] == expected


@pytest.mark.parametrize("task", ["auto", "spooled", "muled"])
def test_given_no_master_when_called_then_it_runs_here(uwsgi, task):
    server = uwsgi(APP, master=False, spooler=False)
    server.call(task)
    assert server.ledger.wait_one("ran")["place"] == "worker"


def test_given_no_master_when_called_then_the_log_says_what_tasks_need(uwsgi):
    server = uwsgi(APP, master=False, spooler=False)
    server.call("auto")
    assert "master" in server.wait_log("master = true")


def test_given_no_workers_when_the_spooler_is_given_a_task_then_it_runs(uwsgi):
    source = APP + "spooled('headless')\n"
    server = uwsgi(source, "import = app", "mule = true", http=False, ready="spawned uWSGI mule 1")
    assert server.ledger.wait_one("ran", tag="headless")["place"] == "spooler"


def test_given_settings_made_after_the_import_when_called_at_once_then_the_spooler_runs_it(uwsgi):
    source = APP + "configure(max_attempts=5)\nimport uwsgi_tasks.engine as engine\n"
    server = uwsgi(source)
    assert server.eval("engine.current().server.preloaded") is True
