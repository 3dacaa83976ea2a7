"""What uWSGI calls: every message runs, is kept, or goes to the library that it belongs to."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import consumer, control, engine, handlers, inflight, sweeping, wire
from uwsgi_tasks.executors import spooler as to_spool
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


def spooled(message, signer=None, name=None):
    """Let the handler have a message in a file of its own name; return what uWSGI is told."""
    signer = signer or engine.current().site().signer
    name = name or to_spool.file_name(message.id, message.delivery)
    return handlers.on_spool(env_of(wire.spool_file(wire.pack(message, signer)), name))


def scan(spool):
    """Handle what lies in the spool, as uWSGI does at a scan; return the names of the files."""
    paths = sorted(Path(spool).glob("uwsgi_spoolfile_on_*"))
    for path in paths:
        if handlers.on_spool(env_of(path.read_bytes(), path.name)) == SPOOL_OK:
            path.unlink()
    return [path.name for path in paths]


def letters():
    return engine.current().site().letters.list()


# spool files


def test_given_a_message_when_it_comes_then_it_runs_and_the_file_may_go(fake):
    fake()
    assert (spooled(a_message(args=[1])), RUNS) == (SPOOL_OK, [(1,)])


def test_given_a_message_of_the_network_when_it_comes_then_it_runs_under_its_own_name(fake, spool):
    fake()
    message = a_message()
    content = wire.spool_packet(wire.pack(message, engine.current().site().signer))
    assert (handlers.on_spool(env_of(content)), RUNS) == (SPOOL_OK, [])
    assert (scan(spool), len(RUNS)) == ([to_spool.file_name(message.id, 1)], 1)


def test_given_a_copy_under_another_name_when_it_comes_after_its_end_then_it_does_not_run(
    fake, spool
):
    fake()
    message = a_message()
    spooled(message)
    assert spooled(message, name="uwsgi_spoolfile_on_copy") == SPOOL_OK
    assert (len(scan(spool)), len(RUNS)) == (1, 1)


def test_given_the_same_file_twice_when_it_comes_then_it_runs_once_and_may_go(fake, caplog):
    fake()
    message = a_message()
    assert [spooled(message) for _ in range(2)] == [SPOOL_OK, SPOOL_OK]
    assert (len(RUNS), engine.current().site().home.counters()["refused"]) == (1, 1)
    assert "doesn't run twice" in caplog.text


def test_given_a_message_that_expired_when_it_comes_then_it_is_dead_and_does_not_run(fake):
    fake()
    assert spooled(a_message(expires_at=time.time() - 1)) == SPOOL_OK
    assert (RUNS, [letter.reason for letter in letters()]) == ([], ["expired"])


def test_given_a_message_over_the_limit_when_it_comes_then_its_file_is_kept_unread(fake, spool):
    fake(settings={"max_message_bytes": 10})
    content = wire.MAGIC + bytes(10 + sweeping.OVERHEAD)
    path = Path(spool, "uwsgi_spoolfile_on_large")
    path.write_bytes(wire.spool_file(content))
    assert handlers.on_spool(env_of(path.read_bytes(), path.name)) == SPOOL_OK
    assert [letter.reason for letter in letters()] == ["message too big"]
    assert engine.current().site().letters.content(letters()[0].id) == path.read_bytes()


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


def test_given_a_pause_when_harakiri_comes_near_then_the_file_stays(fake):
    fake(spooler_harakiri=b"3")
    engine.current().site().home.pause(True)
    assert (spooled(a_message()), RUNS) == (SPOOL_RETRY, [])


def test_given_a_pause_when_it_is_resumed_then_the_message_that_waited_runs(fake, monkeypatch):
    fake()
    home = engine.current().site().home
    home.pause(True)
    waits = home.wait_resumed

    def resumed_meanwhile(seconds, spool):
        thread = threading.Thread(target=home.pause, args=(False,))
        thread.start()
        try:
            return waits(seconds, spool)
        finally:
            thread.join()

    monkeypatch.setattr(home, "wait_resumed", resumed_meanwhile)
    assert (spooled(a_message()), len(RUNS)) == (SPOOL_OK, 1)


def test_given_a_pause_just_before_the_run_when_resumed_then_it_is_looked_at_anew(
    fake, monkeypatch
):
    fake()
    site, message = engine.current().site(), a_message()
    begin = site.inflight.begin

    def pause_then_begin(*args):
        site.home.pause(True)
        begin(*args)

    def cancelled_meanwhile(seconds, spool):
        site.inflight.note_over(message.id, 1, inflight.CANCELLED)
        site.home.pause(False)
        return True

    monkeypatch.setattr(site.inflight, "begin", pause_then_begin)
    monkeypatch.setattr(site.home, "wait_resumed", cancelled_meanwhile)
    assert (spooled(message), RUNS) == (SPOOL_OK, [])


def test_given_a_message_that_is_not_due_when_it_comes_then_it_waits(fake):
    fake()
    due = time.time() + 60
    assert (spooled(a_message(at=due)), RUNS) == (SPOOL_OK, [])
    assert engine.current().site().store.next_due() == due


def test_given_a_copy_that_was_superseded_when_it_comes_then_it_does_not_run(fake, spool):
    fake()
    message = a_message()
    engine.current().site().wait(message._replace(delivery=2), 9e9, TaskExecutor.SPOOLER, spool)
    assert (spooled(message._replace(stored=True)), RUNS) == (SPOOL_OK, [])


def test_given_a_disk_that_is_full_when_settled_then_the_file_stays(fake, monkeypatch, caplog):
    fake()
    site = engine.current().site()
    engine.registry.add(TaskSpec("app.task", lambda: 1 / 0))

    monkeypatch.setattr(site, "bury", full)
    assert spooled(a_message()) == SPOOL_RETRY
    assert "stays in the spool" in caplog.text


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_given_a_disk_that_has_room_again_when_the_file_comes_then_it_is_settled_and_not_rerun(
    fake, monkeypatch
):
    fake()
    site, message = engine.current().site(), a_message()
    site.inflight.claim(inflight.SPOOLER, 0, consumer.instance_of(engine.current().server))
    engine.registry.add(TaskSpec("app.task", fails))
    with monkeypatch.context() as patch:
        patch.setattr(site, "bury", full)
        assert [spooled(message), spooled(message)] == [SPOOL_RETRY, SPOOL_RETRY]
    assert spooled(message) == SPOOL_OK
    assert (RUNS, [letter.error for letter in letters()]) == (["fails"], ["KeyError: 'no'"])
    assert site.home.counters()["refused"] == 0  # it came back because we asked for it


def test_given_a_full_disk_when_other_tasks_come_then_those_that_write_nothing_run(
    fake, monkeypatch
):
    fake()
    site = engine.current().site()
    engine.registry.add(TaskSpec("app.fails", fails))
    monkeypatch.setattr(site, "bury", full)
    spooled(a_message("app.fails"))
    assert (spooled(a_message(args=[1])), RUNS) == (SPOOL_OK, ["fails", (1,)])


def fails():
    RUNS.append("fails")
    raise KeyError("no")


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
    fake, spool, allowed, listed
):
    fake(settings={"accept_unsigned": allowed})
    name = "uwsgi_spoolfile_on_host_1_2_3_1700000000_000001"
    handlers._state["old_files"] = frozenset([name] if listed else [])
    env = env_of((DATA / "plain_empty.spool").read_bytes(), name)
    engine.registry.add(TaskSpec(env[b"function_name"].decode(), work))
    assert handlers.on_spool(env) == SPOOL_OK
    scan(spool)
    assert (len(RUNS), len(letters())) == ((1, 0) if allowed and listed else (0, 1))


# mules


def test_given_a_message_when_a_mule_gets_it_then_it_runs(fake):
    fake(mules=1).mule = 1
    handlers.on_mule_message(wire.pack(a_message(args=[1]), engine.current().site().signer))
    assert RUNS == [(1,)]


def test_given_a_task_in_a_mule_when_it_runs_then_the_mule_is_busy_until_it_ends(fake):
    fake(mules=1).mule = 1
    this, seen = engine.current(), []
    this.site().inflight.claim(inflight.MULE, 1, consumer.instance_of(this.server))
    engine.registry.add(TaskSpec("app.task", lambda: seen.extend(this.site().inflight.busy())))
    handlers.on_mule_message(wire.pack(a_message(), this.site().signer))
    assert ([(record.kind, record.number) for record in seen], control.busy()) == (
        [(inflight.MULE, 1)],
        0,
    )


def test_given_the_same_message_twice_when_a_mule_gets_it_then_it_runs_once(fake):
    fake(mules=1).mule = 1
    data = wire.pack(a_message(args=[1]), engine.current().site().signer)
    handlers.on_mule_message(data)
    handlers.on_mule_message(data)
    assert ([(1,)], engine.current().site().home.counters()["refused"]) == (RUNS, 1)


def test_given_a_message_that_expired_when_a_mule_gets_it_then_it_is_dead(fake):
    fake(mules=1).mule = 1
    late = a_message(expires_at=time.time() - 1)
    handlers.on_mule_message(wire.pack(late, engine.current().site().signer))
    assert (RUNS, [letter.reason for letter in letters()]) == ([], ["expired"])


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
