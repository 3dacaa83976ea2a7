"""Queues with a spool directory of their own: paused alone, and what there is of each."""

from __future__ import annotations

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import os
from uwsgi_tasks import configure, control, pause, resume, task, TaskExecutor
from uwsgi_tasks.control import paused
configure(queues={"mail": os.environ["TEST_DIR"] + "/two"})

@task(executor=TaskExecutor.SPOOLER)
def plain(tag="plain"):
    note(tag)

@task(executor=TaskExecutor.SPOOLER, queue="mail")
def mail(tag="mail"):
    note(tag)

@task(executor=TaskExecutor.SPOOLER, queue="mail")
def hold():
    note("held")
    wait_for_file("go")
"""
TWO = ("spooler = {spool}", "spooler = {dir}/two")


def queues(server):
    return {name: tuple(found.values()) for name, found in server.eval("control.queues()").items()}


def test_given_a_paused_queue_when_tasks_come_then_only_the_others_run(uwsgi):
    server = uwsgi(APP, *TWO)
    server.eval("pause('mail')")
    server.eval("(mail(), plain())")
    server.ledger.wait_one("plain")
    wait_until(lambda: queues(server)["mail"] == (0, 0, 1, 0, True))
    assert (server.ledger.rows("mail"), server.eval("(paused('mail'), paused())")) == (
        [],
        [True, False],
    )
    server.eval("resume('mail')")
    server.ledger.wait_one("mail", timeout=2)


def test_given_a_paused_queue_when_the_server_restarts_then_it_stays_so_until_resumed(uwsgi):
    server = uwsgi(APP, *TWO)
    server.eval("(pause('mail'), mail())")
    server.restart()
    server.call("plain")
    server.ledger.wait_one("plain")
    assert server.ledger.rows("mail") == []
    server.eval("resume('mail')")
    server.ledger.wait_one("mail", timeout=2)


def test_given_all_and_one_queue_paused_when_all_is_resumed_then_the_queue_still_waits(uwsgi):
    server = uwsgi(APP, *TWO)
    server.eval("(pause('mail'), pause(), mail(), plain(), resume())")
    server.ledger.wait_one("plain")
    assert server.ledger.rows("mail") == []
    server.eval("resume('mail')")
    server.ledger.wait_one("mail", timeout=2)


def test_given_tasks_in_each_state_when_asked_then_they_are_counted_by_queue(uwsgi):
    server = uwsgi(APP, *TWO)
    server.call("hold")
    server.ledger.wait("held")
    server.eval("[mail.options(priority=5)() for _ in range(3)] and None")
    server.eval("(mail(), mail.options(delay=600)(), plain.options(delay=600, queue='other')())")
    found = queues(server)
    server.touch("go")
    assert found == {"mail": (1, 3, 1, 1, False), "default": (1, 0, 0, 0, False)}


@pytest.mark.parametrize("queue", ["other", "default"])
def test_given_a_queue_without_a_spool_of_its_own_when_paused_then_the_cure_is_told(uwsgi, queue):
    server = uwsgi(APP, *TWO)
    with pytest.raises(RemoteError, match=r"no spool directory of its own.*queues=") as caught:
        server.eval(f"pause({queue!r})")
    assert "OptionValueError" in caught.value.kinds
