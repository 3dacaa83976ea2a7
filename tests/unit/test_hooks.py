"""How the hooks come into uWSGI, and what happens at the start and the end of a process."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.messages import a_message
from tests.unit.children import forks, in_child
from uwsgi_tasks import consumer, control, engine, handlers, inflight, timers, wire
from uwsgi_tasks.inflight import Instance
from uwsgi_tasks.model import TaskSpec

RUNS: list[object] = []


@pytest.fixture(autouse=True)
def registered(spool):
    RUNS.clear()
    os.chdir(spool)  # as uWSGI does before each task
    handlers._state.update(spool="", started=0, keeping_time=0)


def test_given_no_server_when_installed_then_nothing_happens():
    handlers.install()
    assert handlers._state["installed"] is False


@pytest.fixture
def installed(fake):
    """Install the hooks in a fake server's master, after those of another library."""

    def install(**before):
        server = fake(worker=0)
        vars(server.module).update(before)
        handlers.install()
        return server.module

    return install


def test_given_a_server_when_installed_then_its_hooks_are_ours(installed):
    module = installed()
    assert (module.spooler, module.mule_msg_hook, module.post_fork_hook) == (
        handlers.on_spool,
        handlers.on_mule_message,
        handlers.on_fork,
    )


def test_given_a_hook_of_another_library_when_installed_then_it_is_chained(installed):
    seen = []
    installed(mule_msg_hook=seen.append)
    handlers.on_mule_message(b"hello")
    assert seen == [b"hello"]


def test_given_a_hook_that_is_set_after_ours_when_messages_come_then_both_get_theirs(installed):
    seen, module = [], installed()
    module.mule_msg_hook = seen.append
    handlers.on_mule_message(b"hello")
    assert (seen, module.mule_msg_hook) == ([b"hello"], handlers.on_mule_message)


def test_given_another_attribute_of_uwsgi_when_set_then_it_is_set(installed):
    module = installed()
    module.applications = {"": None}
    assert module.applications == {"": None}


def test_given_installed_hooks_when_installed_again_then_nothing_is_chained_to_itself(installed):
    installed()
    handlers.install()
    assert handlers._previous == {}


def test_given_a_fork_hook_of_another_library_when_a_process_starts_then_it_is_called(
    installed, monkeypatch
):
    seen = []
    installed(post_fork_hook=lambda: seen.append("forked"))
    monkeypatch.setattr(handlers, "_start_process", lambda here: None)
    handlers.on_fork()
    assert seen == ["forked"]


def test_given_the_master_when_installed_then_the_signals_of_any_worker_are_registered(fake):
    server = fake(worker=0)
    handlers.install()
    assert {number: target for number, (target, _) in server.handlers.items()} == {
        255: "worker",
        254: "workers",
        253: "active-workers",
    }


def test_given_a_timer_for_one_worker_when_declared_in_the_master_then_its_signal_is_registered(
    fake,
):
    server = fake(worker=0)
    handlers.install()
    timers.timer(seconds=60, target="worker2")(on_timer)
    assert server.handlers[252][0] == "worker2"


def fire(found):
    row = found.row()
    engine.current().site().store.add_firing("worker", "an id", row.envelope)


def on_timer(signal_number):
    RUNS.append(signal_number)


def test_given_a_signal_when_it_is_raised_in_a_worker_then_what_fired_runs_once(fake):
    server = fake(worker=0)
    handlers.install()
    found = timers.timer(seconds=60, target="worker")(on_timer)
    fire(found)
    (_, handler) = server.handlers[255]
    handler(255)
    handler(255)
    assert [found.number] == RUNS


def test_given_a_schedule_that_exits_when_its_signal_comes_then_the_worker_lives(fake):
    server = fake(worker=0)
    handlers.install()
    found = timers.timer(seconds=60, target="worker")(exits)
    fire(found)
    server.handlers[255][1](255)
    assert RUNS == ["exits"]


def exits():
    RUNS.append("exits")
    raise SystemExit(3)


def test_given_the_start_of_a_mule_when_it_opens_then_it_announces_itself(fake, monkeypatch):
    server = fake(mules=2)
    server.worker, server.mule = 0, 2
    monkeypatch.setattr(handlers, "_keep_time", lambda this, site: None)
    handlers.on_fork()
    this = engine.current()
    assert this.site().home.announced_mules(this.server.incarnation) == [2]


@pytest.mark.parametrize(
    ("kind", "keeps"),
    [("spooler", True), ("mule", False), ("worker", False)],
)
def test_given_a_server_with_a_spooler_when_processes_start_then_the_spooler_keeps_time(
    fake, monkeypatch, kind, keeps
):
    server, found = fake(mules=1), []
    server.worker, server.mule = int(kind == "worker"), int(kind == "mule")
    server.spooler = kind == "spooler"
    monkeypatch.setattr(handlers, "_keep_time", lambda this, site: found.append(site))
    handlers.on_fork()
    assert bool(found) is keeps


# what a process notes at its start and its end


@pytest.mark.parametrize("kind", ["ok", "raises"])
def test_given_a_working_dir_in_a_mule_when_its_task_is_over_then_the_one_before_is_back(
    started, tmp_path, kind
):
    before, seen = os.getcwd(), []

    def looks():
        seen.append(os.getcwd())
        assert kind == "ok"

    site = started("mule")
    engine.registry.add(TaskSpec("app.task", looks))
    message = a_message(working_dir=str(tmp_path), working_dir_asked=True)
    handlers.on_mule_message(wire.pack(message, site.signer))
    assert (seen, os.getcwd()) == ([str(tmp_path)], before)


@pytest.fixture
def started(fake, monkeypatch):
    """Start this process as one of a kind; return the site."""
    monkeypatch.setattr(handlers, "_keep_time", lambda this, site: None)

    def start(kind):
        server = fake(mules=1)
        server.worker, server.mule = int(kind == "worker"), int(kind == "mule")
        server.spooler = kind == "spooler"
        handlers.on_fork()
        return engine.current().site()

    return start


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("spooler", [(inflight.SPOOLER, 0)]), ("mule", [(inflight.MULE, 1)]), ("worker", [])],
)
def test_given_a_process_that_takes_messages_when_it_starts_then_it_owns_a_record(
    started, kind, expected
):
    site = started(kind)
    site.inflight.begin("1" * 19 + "-" + "a" * 16, 1)
    assert [(record.kind, record.number) for record in site.inflight.busy()] == expected


def test_given_a_stop_that_was_noted_when_a_process_of_the_server_starts_then_it_goes_on(
    fake, started
):
    fake()
    this = engine.current()
    instance, others = consumer.instance_of(this.server), Instance(1, 2)
    for stopped in (instance, others):
        this.site().inflight.note_stop(stopped)
    site = started("worker")
    assert site.inflight.stopped_at(instance) == 0
    assert site.inflight.stopped_at(others) > 0


def test_given_a_pause_for_a_reload_when_the_same_server_goes_on_then_it_stays_paused(started):
    site = started("worker")
    site.home.pause(True, until_reload=True)
    site.home.resume_after_reload(engine.current().server.incarnation)
    assert control.paused() is True


def test_given_a_spooler_that_is_told_to_hang_up_when_it_has_a_task_then_that_is_marked(started):
    site = started("spooler")
    os.kill(os.getpid(), signal.SIGHUP)
    assert site.inflight.record(site.inflight.place).marked_at > 0


@forks
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_given_a_process_that_was_told_to_end_when_it_exits_then_its_record_says_so(
    started, number
):
    site = started("spooler")
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        handlers.on_exit()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    assert site.inflight.record(site.inflight.place).marked_at > 0


@pytest.mark.parametrize("number", [None, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_given_a_crash_when_the_exit_hook_is_called_then_nothing_is_marked(started, number):
    site = started("spooler")
    signal.pthread_sigmask(signal.SIG_BLOCK, {number} if number else ())
    try:
        handlers.on_exit()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number} if number else ())
    assert site.inflight.record(site.inflight.place).marked_at == 0


@forks
@pytest.mark.parametrize(
    ("kind", "signals", "noted"),
    [
        ("worker", (), True),
        ("mule", (), True),
        ("spooler", (), False),
        ("worker", (signal.SIGSEGV,), False),
    ],
)
def test_given_a_process_when_it_exits_then_an_orderly_end_of_a_worker_or_mule_notes_the_stop(
    started, kind, signals, noted
):
    site = started(kind)
    here = engine.current().server
    here.master = os.getpid()

    def exits():  # a child, whose parent is the master
        handlers._state["started"] = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        handlers.on_exit()

    in_child(exits)
    assert (site.inflight.stopped_at(consumer.instance_of(here)) > 0) is noted


def test_given_a_master_that_was_killed_when_a_worker_exits_then_no_stop_is_noted(started):
    site = started("worker")
    here = engine.current().server
    here.master = os.getppid() + 1
    handlers.on_exit()
    assert site.inflight.stopped_at(consumer.instance_of(here)) == 0


def test_given_an_exit_hook_of_another_library_when_a_process_ends_then_it_is_called(fake):
    fake()
    seen = []
    handlers._chain("atexit", lambda: seen.append("ended"))
    handlers.on_exit()
    assert seen == ["ended"]
