"""What uWSGI calls: every message runs, is kept, or goes to the library that it belongs to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import engine, handlers, timers, wire
from uwsgi_tasks.model import SPOOL_OK, SPOOL_RETRY, TaskExecutor, TaskSpec
from uwsgi_tasks.wire import Signer

DATA = Path(__file__).parents[1] / "compat" / "data"
RUNS: list[object] = []


def work(*args):
    RUNS.append(args)


@pytest.fixture(autouse=True)
def registered(spool):
    RUNS.clear()
    engine.registry.add(TaskSpec("app.task", work))
    os.chdir(spool)  # as uWSGI does before each task
    handlers._state.update(spool="", started=0, keeping_time=0)


def env_of(content, name="uwsgi_spoolfile_on_test"):
    """Return what uWSGI gives its hook for the content of a spool file."""
    size = int.from_bytes(content[1:3], "little")
    found, at = {"spooler_task_name": name}, 4
    while at < 4 + size:
        pair = []
        for _ in range(2):
            length = int.from_bytes(content[at : at + 2], "little")
            pair.append(content[at + 2 : at + 2 + length])
            at += 2 + length
        found[pair[0]] = pair[1]
    if content[4 + size :]:
        found["body"] = content[4 + size :]
    return found


def spooled(message, signer=None):
    signer = signer or engine.current().site().signer
    return handlers.on_spool(env_of(wire.spool_file(wire.pack(message, signer))))


def letters():
    return engine.current().site().letters.list()


# spool files


def test_given_a_message_when_it_comes_then_it_runs_and_the_file_may_go(fake):
    fake()
    assert (spooled(a_message(args=[1])), RUNS) == (SPOOL_OK, [(1,)])


def test_given_a_message_of_the_network_when_it_comes_then_it_runs(fake):
    fake()
    content = wire.spool_packet(wire.pack(a_message(), engine.current().site().signer))
    assert (handlers.on_spool(env_of(content)), len(RUNS)) == (SPOOL_OK, 1)


def test_given_a_wrong_signature_when_it_comes_then_it_is_kept_and_does_not_run(fake):
    fake()
    assert spooled(a_message(), Signer([b"x" * 32])) == SPOOL_OK
    assert (RUNS, [letter.reason for letter in letters()]) == ([], ["bad signature"])


@pytest.mark.parametrize("body", [b"", b"garbage", b"UWT\x02newer", b"UWT\x01"], ids=repr)
def test_given_a_body_that_is_no_message_when_it_comes_then_it_is_kept(fake, body):
    fake()
    assert handlers.on_spool(env_of(wire.spool_file(body))) == SPOOL_OK
    assert len(letters()) == 1


def test_given_the_same_bad_file_twice_when_it_comes_then_one_letter_is_kept(fake):
    fake()
    for _ in range(2):
        handlers.on_spool(env_of(wire.spool_file(b"garbage")))
    assert len(letters()) == 1


def test_given_a_pause_when_a_message_comes_then_its_file_stays(fake):
    fake()
    engine.current().site().home.pause(True)
    assert (spooled(a_message()), RUNS) == (SPOOL_RETRY, [])


def test_given_a_message_that_is_not_due_when_it_comes_then_it_waits(fake):
    fake()
    due = time.time() + 60
    assert (spooled(a_message(at=due)), RUNS) == (SPOOL_OK, [])
    assert engine.current().site().store.next_due() == due


def test_given_a_copy_that_was_superseded_when_it_comes_then_it_does_not_run(fake, spool):
    fake()
    message = a_message()
    engine.current().site().wait(message._replace(attempt=2), 9e9, TaskExecutor.SPOOLER, spool)
    assert (spooled(message._replace(stored=True)), RUNS) == (SPOOL_OK, [])


def test_given_a_disk_that_is_full_when_settled_then_the_file_stays(fake, monkeypatch, caplog):
    fake()
    site = engine.current().site()
    engine.registry.add(TaskSpec("app.task", lambda: 1 / 0))

    def full(letter, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site, "bury", full)
    assert spooled(a_message()) == SPOOL_RETRY
    assert "stays in the spool" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, KeyError])
def test_given_a_task_that_ends_the_process_when_it_runs_then_the_spooler_lives(fake, kind):
    def end():
        raise kind("end")

    fake()
    engine.registry.add(TaskSpec("app.task", end))
    assert (spooled(a_message()), len(letters())) == (SPOOL_OK, 1)


# what isn't ours


@pytest.mark.parametrize(
    ("returned", "expected"), [(-2, -2), (-1, -1), (0, 0), (None, SPOOL_RETRY), (True, 1)]
)
def test_given_a_file_of_another_library_when_it_comes_then_its_hook_gets_it(
    fake, returned, expected
):
    fake()
    seen = []
    handlers._chain("spooler", lambda env: seen.append(env) or returned)
    env = {"spooler_task_name": "x", b"ud_spool_func": b"f"}
    assert (handlers.on_spool(env), seen) == (expected, [env])


def test_given_a_file_of_nobody_when_it_comes_then_it_is_kept_and_told(fake, caplog):
    fake()
    assert handlers.on_spool({"spooler_task_name": b"x", b"key": b"value"}) == SPOOL_OK
    assert "no hook takes it" in letters()[0].error
    assert "is kept as dead letter" in caplog.text


def test_given_another_hook_when_ours_comes_then_it_does_not_get_it(fake):
    fake()
    seen = []
    handlers._chain("spooler", seen.append)
    spooled(a_message())
    assert seen == []


def test_given_our_own_hook_when_chained_then_it_is_not_its_own_predecessor():
    handlers._chain("spooler", handlers.on_spool)
    assert "spooler" not in handlers._previous


# files of release 0.7.3


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_given_a_file_of_the_old_release_when_it_comes_then_only_an_allowed_one_runs(
    fake, allowed, listed
):
    fake(settings={"accept_unsigned": allowed})
    name = "uwsgi_spoolfile_on_host_1_2_3_1700000000_000001"
    handlers._state["old_files"] = frozenset([name] if listed else [])
    env = env_of((DATA / "plain_empty.spool").read_bytes(), name)
    engine.registry.add(TaskSpec(env[b"function_name"].decode(), work))
    assert handlers.on_spool(env) == SPOOL_OK
    assert (len(RUNS), len(letters())) == ((1, 0) if allowed and listed else (0, 1))


# mules


def test_given_a_message_when_a_mule_gets_it_then_it_runs(fake):
    fake(mules=1).mule = 1
    handlers.on_mule_message(wire.pack(a_message(args=[1]), engine.current().site().signer))
    assert RUNS == [(1,)]


def test_given_a_task_in_a_mule_when_it_runs_then_the_mule_is_busy_until_it_ends(fake):
    fake(mules=1).mule = 1
    home, seen = engine.current().site().home, []
    engine.registry.add(TaskSpec("app.task", lambda: seen.append(home.busy_mules())))
    handlers.on_mule_message(wire.pack(a_message(), engine.current().site().signer))
    assert (seen, home.busy_mules()) == ([1], 0)


def test_given_a_changed_message_when_a_mule_gets_it_then_it_is_kept_and_does_not_run(fake):
    fake(mules=1).mule = 1
    handlers.on_mule_message(wire.pack(a_message(), engine.current().site().signer) + b"x")
    assert (RUNS, [letter.reason for letter in letters()]) == ([], ["bad signature"])


def test_given_a_message_of_another_library_when_a_mule_gets_it_then_its_hook_does(fake):
    fake(mules=1).mule = 1
    seen = []
    handlers._chain("mule_msg_hook", seen.append)
    handlers.on_mule_message(b"hello")
    assert seen == [b"hello"]


def test_given_bytes_of_nobody_when_a_mule_gets_them_then_they_are_kept(fake):
    fake(mules=1).mule = 1
    handlers.on_mule_message(b"hello")
    assert [letter.reason for letter in letters()] == ["unreadable message"]


@pytest.mark.parametrize("why", ["paused", "not due"])
def test_given_a_message_that_may_not_run_yet_when_a_mule_gets_it_then_it_waits(fake, why):
    fake(mules=1).mule = 1
    site = engine.current().site()
    site.home.pause(why == "paused")
    at = time.time() + 60 if why == "not due" else 0.0
    handlers.on_mule_message(wire.pack(a_message(at=at), site.signer))
    assert RUNS == []
    assert site.store.next_due() > time.time()


# installed


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


def test_given_a_timer_for_workers_when_declared_in_the_master_then_its_signal_is_registered(fake):
    server = fake(worker=0)
    handlers.install()
    timers.timer(seconds=60, target="workers")(on_timer)
    assert [(number, target) for number, (target, _) in server.handlers.items()] == [
        (255, "workers")
    ]


def on_timer(signal_number):
    RUNS.append(signal_number)


def test_given_a_signal_when_it_is_raised_in_a_worker_then_what_fired_runs_once(fake):
    server = fake(worker=0)
    handlers.install()
    found = timers.timer(seconds=60, target="worker")(on_timer)
    engine.current().site().store.add_firing("worker", found.name, found.number)
    (_, handler) = server.handlers[255]
    handler(255)
    handler(255)
    assert [found.number] == RUNS


def test_given_a_schedule_that_exits_when_its_signal_comes_then_the_worker_lives(fake):
    server = fake(worker=0)
    handlers.install()
    found = timers.timer(seconds=60, target="worker")(exits)
    engine.current().site().store.add_firing("worker", found.name, found.number)
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
