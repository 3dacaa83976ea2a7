"""Schedules at run time on a real server: steered from everywhere, lasting, fired once."""

from __future__ import annotations

import sqlite3
import time
from itertools import pairwise

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError, UwsgiServer

APP = """
import os, time
from uwsgi_tasks import schedules, task, timer, get_current_task, TaskExecutor

@timer(seconds=0.2)
def beat(signal_number):
    note("beat")

@task
def tell(*args, **kwargs):
    note("tell", place=place(), args=args, kwargs=kwargs)

@task(retry_count=3)
def fails_twice(word):
    note("fails", word=word, attempt=get_current_task().attempt)
    if get_current_task().attempt < 3:
        raise RuntimeError("not yet")

@task
def holds(name):
    note("begun", name=name)
    wait_for_file(name)
    note("ended", name=name)

@task
def adds(name):
    add(tell, every=0.2, name=name, args=(name,))

def add(*args, **kwargs):
    return schedules.add(*args, **kwargs).name
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP, "mules = 2", "workers = 2", "spooler-processes = 2")


@pytest.fixture
def name(shared, tag):
    """The name of a schedule that ends with its test."""
    yield tag
    shared.eval(
        f"schedules.remove({tag!r}) if {tag!r} in [s.name for s in schedules.list()] else 0"
    )


def settle(server, beats=4):
    server.ledger.wait("beat", count=len(server.ledger.rows("beat")) + beats)


def told(server, tag):
    return [row for row in server.ledger.rows("tell") if tag in row["args"]]


def wait_told(server, tag, count=1):
    return wait_until(lambda: len(rows := told(server, tag)) >= count and rows, 10.0, f"told {tag}")


def test_given_a_worker_when_it_adds_one_then_its_task_runs_with_its_arguments(shared, name):
    shared.eval(f"add(tell, every=0.2, name={name!r}, args=({name!r}, 1), kwargs={{'k': 2}})")
    rows = wait_told(shared, name, 3)
    assert rows[0]["args"] == [name, 1]
    assert rows[0]["kwargs"] == {"k": 2}
    assert rows[0]["place"] == "spooler"


def test_given_a_task_when_it_adds_one_then_it_fires(shared, name):
    shared.eval(
        f"task(name='adder')(lambda: 0) and add(tell, every=0.2, name={name!r}, args=({name!r},))"
    )
    wait_told(shared, name)


def test_given_iterations_when_added_then_it_fires_exactly_so_often(shared, name):
    shared.eval(f"add(tell, every=0.1, iterations=3, name={name!r}, args=({name!r},))")
    wait_told(shared, name, 3)
    settle(shared)
    assert len(told(shared, name)) == 3


def test_given_one_that_is_removed_when_time_passes_then_it_fires_no_more(shared, name):
    shared.eval(f"add(tell, every=0.1, name={name!r}, args=({name!r},))")
    wait_told(shared, name)
    shared.eval(f"schedules.remove({name!r})")
    settle(shared, 2)
    before = len(told(shared, name))
    settle(shared)
    assert len(told(shared, name)) == before


def test_given_one_that_is_paused_when_resumed_then_it_goes_on(shared, name):
    shared.eval(f"add(tell, every=0.1, name={name!r}, args=({name!r},))")
    wait_told(shared, name)
    shared.eval(f"schedules.pause({name!r})")
    settle(shared, 2)
    before = len(told(shared, name))
    settle(shared)
    assert len(told(shared, name)) == before
    shared.eval(f"schedules.resume({name!r})")
    wait_told(shared, name, before + 2)


def test_given_a_daily_one_when_run_now_then_it_runs_once_under_the_id_that_was_told(shared, name):
    shared.eval(f"add(tell, cron='@yearly', name={name!r}, args=({name!r},))")
    ident = shared.eval(f"schedules.run_now({name!r})")
    wait_told(shared, name)
    settle(shared)
    assert len(told(shared, name)) == 1
    assert shared.eval(f"schedules.show({name!r}).last_id") == ident


def test_given_a_declared_timer_when_run_now_then_it_fires_too(shared):
    before = shared.eval("schedules.show(beat.name).fired")
    shared.eval("schedules.run_now(beat.name)")
    wait_until(lambda: shared.eval("schedules.show(beat.name).fired") > before)


def test_given_schedules_when_listed_then_declared_and_added_ones_are_told(shared, name):
    shared.eval(f"add(tell, every=60, name={name!r})")
    found = shared.eval("[(s.name, s.origin) for s in schedules.list()]")
    assert [name, "added"] in found
    assert ["app.beat", "declared"] in found


def test_given_a_schedule_when_its_next_moments_are_asked_for_then_they_keep_its_period(
    shared, name
):
    shared.eval(f"add(tell, every=60, name={name!r})")
    found = shared.eval(f"[due.timestamp() for due in schedules.next({name!r}, 3)]")
    assert [round(b - a) for a, b in pairwise(found)] == [60, 60]


def test_given_a_task_that_retries_when_its_schedule_fires_then_its_policy_holds(shared, name):
    shared.eval(f"add(fails_twice, every=0.1, iterations=1, name={name!r}, args=({name!r},))")
    rows = shared.ledger.wait("fails", count=3, word=name)
    assert [row["attempt"] for row in rows] == [1, 2, 3]


# from outside


def test_given_a_shell_when_it_steers_schedules_then_the_server_follows(shared, shell, name):
    shell(
        shared,
        "from uwsgi_tasks import schedules\n"
        f"schedules.add('app.tell', every=0.2, name={name!r}, args=({name!r},))",
    )
    wait_told(shared, name, 2)
    state = shell(
        shared,
        "from uwsgi_tasks import schedules\n"
        f"schedules.pause({name!r}); print(schedules.show({name!r}).state);"
        f"schedules.resume({name!r}); print(schedules.show({name!r}).state);"
        f"schedules.run_now({name!r}); print(len(schedules.next({name!r}, 2)));"
        f"schedules.remove({name!r}); print({name!r} in [s.name for s in schedules.list()])",
    )
    assert state.split() == ["paused", "active", "2", "False"]


# targets


@pytest.mark.parametrize(
    ("target", "places"),
    [
        ("worker", {"worker"}),
        ("workers", {"worker"}),
        ("mule", {"mule1", "mule2"}),
        ("mule2", {"mule2"}),
        ("mules", {"mule1", "mule2"}),
        ("spooler", {"spooler"}),
    ],
)
def test_given_a_target_when_one_is_added_then_it_runs_there(shared, name, target, places):
    shared.eval(
        f"add(tell, every=0.2, iterations=2, name={name!r}, args=({name!r},), target={target!r})"
    )
    width = 2 if target.endswith("s") else 1
    rows = wait_told(shared, name, 2 * width)
    settle(shared)
    assert {row["place"] for row in rows} <= places
    assert len(told(shared, name)) == 2 * width


def test_given_a_target_that_the_master_does_not_know_when_added_then_the_error_names_the_cure(
    shared,
):
    with pytest.raises(RemoteError, match="registered no signal for it") as caught:
        shared.eval("add(tell, every=5, target='worker2')")
    assert caught.value.kind == "NotAvailable"


def test_given_a_task_that_retries_when_a_worker_runs_it_then_it_retries_there(shared, name):
    shared.eval(
        f"add(fails_twice, every=0.1, iterations=1, name={name!r}, args=({name!r},),"
        f" target='worker')"
    )
    assert len(shared.ledger.wait("fails", count=3, word=name)) == 3


def test_given_workers_alone_when_one_is_added_then_a_worker_runs_it(uwsgi):
    server = uwsgi(APP.replace("@timer(seconds=0.2)\n", ""), "workers = 2", spooler=False)
    server.eval("add(tell, every=0.2, iterations=3, name='alone', args=('alone',))")
    rows = wait_told(server, "alone", 3)
    assert {row["place"] for row in rows} == {"worker"}


# overlap


@pytest.mark.parametrize("where", ["", "mule1", "worker"])
def test_given_a_firing_that_runs_when_the_next_is_due_then_it_is_skipped_and_counted(
    shared, name, where
):
    shared.eval(f"add(holds, every=0.1, name={name!r}, args=({name!r},), target={where!r})")
    shared.ledger.wait("begun", name=name)
    wait_until(lambda: row_of(shared, name)["skipped"] >= 3)
    assert len(shared.ledger.rows("begun", name=name)) == 1
    shared.touch(name)
    shared.ledger.wait("begun", count=2, name=name)


def test_given_one_that_queues_when_the_last_ends_then_the_next_begins_after_it(shared, name):
    shared.eval(
        f"add(holds, every=0.1, overlap='queue', iterations=2, name={name!r}, args=({name!r},))"
    )
    shared.ledger.wait("begun", name=name)
    settle(shared)
    assert len(shared.ledger.rows("begun", name=name)) == 1
    shared.touch(name)
    second = shared.ledger.wait("begun", count=2, name=name)[1]
    assert second["time"] >= shared.ledger.rows("ended", name=name)[0]["time"]


def test_given_one_that_may_overlap_when_due_then_both_spoolers_run_it(shared, name):
    shared.eval(
        f"add(holds, every=0.1, overlap='allow', iterations=2, name={name!r}, args=({name!r},))"
    )
    shared.ledger.wait("begun", count=2, name=name)
    shared.touch(name)
    shared.ledger.wait("ended", count=2, name=name)


# lasting


def database(server):
    return sqlite3.connect(server.home / "store.db", timeout=10, isolation_level=None)


def row_of(server, name):
    connection = database(server)
    connection.row_factory = sqlite3.Row
    try:
        found = connection.execute("SELECT * FROM schedules WHERE name = ?", (name,)).fetchone()
        return dict(found or {})
    except sqlite3.OperationalError:  # its tables aren't made yet
        return {}
    finally:
        connection.close()


def move(server, name, **values):
    connection = database(server)
    names = ", ".join(f"{key} = ?" for key in values)
    connection.execute(f"UPDATE schedules SET {names} WHERE name = ?", (*values.values(), name))
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reload", "restart", "power cut"])
def test_given_an_added_schedule_when_the_server_starts_anew_then_it_goes_on(uwsgi, how):
    server = uwsgi(APP)
    server.eval("add(tell, every=0.3, name='lasting', args=('lasting',))")
    wait_told(server, "lasting", 2)
    if how == "power cut":
        server.kill_everything()
        server.start_again()
    else:
        getattr(server, how)()
    wait_told(server, "lasting", len(told(server, "lasting")) + 3)


DAILY = """
from uwsgi_tasks import timer

@timer(seconds=86400)
def daily(signal_number):
    note("daily")
"""


@pytest.mark.slow
def test_given_a_daily_timer_when_the_server_restarts_then_its_phase_goes_on(uwsgi):
    server = uwsgi(DAILY)
    wait_until((server.home / "store.db").exists)
    due = wait_until(lambda: row_of(server, "app.daily").get("next_at"))
    server.restart()
    assert row_of(server, "app.daily")["next_at"] == due
    server.stop()
    soon = time.time() + 2.0  # as if it had been declared a day ago
    move(server, "app.daily", moment=soon, next_at=soon)
    server.start_again()
    server.ledger.wait_one("daily")


@pytest.mark.slow
@pytest.mark.parametrize(("missed", "fires"), [("skip", 0), ("once", 1), ("all", 3)])
def test_given_moments_that_were_missed_when_started_again_then_the_policy_holds(
    uwsgi, missed, fires
):
    server = uwsgi(APP)
    server.eval(f"add(tell, every=3600, missed={missed!r}, name='late', args=('late',))")
    server.stop()
    back = time.time() - 2.5 * 3600
    move(server, "late", moment=back, next_at=back)
    server.start_again()
    wait_until(lambda: row_of(server, "late")["next_at"] > time.time())
    server.ledger.wait("beat", count=len(server.ledger.rows("beat")) + 5)
    assert len(told(server, "late")) == fires
    assert row_of(server, "late")["missed"] == 3 - fires


@pytest.mark.slow
def test_given_a_timekeeper_that_is_killed_again_and_again_when_counted_then_each_fired_once(
    uwsgi,
):
    server = uwsgi(APP, "spooler-processes = 2")
    server.eval(
        "add(tell, every=0.05, overlap='allow', name='often', args=('often',)) and"
        " [add(tell, every=0.5, overlap='allow', name=f'b{n}', args=(f'b{n}',)) for n in range(40)]"
    )
    for _ in range(12):
        settle(server, 1)
        for pid in server.pids("spooler"):
            server.kill(pid)
        wait_until(lambda: len(server.pids("spooler")) == 2)
    names = ["often", *(f"b{n}" for n in range(40))]
    server.eval("[schedules.pause(s.name) for s in schedules.list() if s.name != beat.name] and 0")
    settle(server, 2)
    server.wait_empty()
    lost = {
        name: (row_of(server, name)["fired"], len(told(server, name)))
        for name in names
        if row_of(server, name)["fired"] > len(told(server, name))
    }
    doubled = sum(len(told(server, name)) - row_of(server, name)["fired"] for name in names)
    crashes = server.eval("__import__('uwsgi_tasks').control.counters()")
    assert lost == {}
    assert doubled <= crashes["crashed"] + crashes["interrupted"]  # those ran again, and say so


@pytest.mark.slow
def test_given_two_servers_on_one_home_when_due_then_one_of_them_fires(uwsgi, shell):
    first = uwsgi(APP)
    spool = first.spool
    second = UwsgiServer(
        APP,
        f"spooler-external = {spool}",
        "workers = 1",
        spooler=False,
        env={"UWSGITASKS_HOME": str(first.home), "TEST_LEDGER": str(first.ledger.path)},
    )
    try:
        second.start()
        first.eval("add(tell, every=0.3, iterations=4, name='both', args=('both',))")
        wait_told(first, "both", 4)
        settle(first)
        assert len(told(first, "both")) == 4
    finally:
        second.close()


@pytest.mark.slow
def test_given_a_module_that_is_gone_when_restarted_then_its_schedules_are_retired(uwsgi):
    server = uwsgi(APP + "import more\n", files={"more.py": MORE})
    server.ledger.wait("more")
    server.write("app.py", (server.dir / "app.py").read_text().replace("import more\n", ""))
    (server.dir / "more.py").unlink()
    server.restart()
    settle(server)
    assert "more.tick" not in server.eval("[s.name for s in schedules.list()]")


@pytest.mark.slow
def test_given_a_module_that_is_not_imported_any_more_when_restarted_then_its_schedules_go_on(
    uwsgi,
):
    server = uwsgi(APP + "import more\n", files={"more.py": MORE})
    server.ledger.wait("more")
    server.write("app.py", (server.dir / "app.py").read_text().replace("import more\n", ""))
    server.restart()
    server.ledger.wait("more", count=len(server.ledger.rows("more")) + 2)


MORE = """
from app_base import note
from uwsgi_tasks import timer

@timer(seconds=0.3)
def tick(signal_number):
    note("more")
"""
