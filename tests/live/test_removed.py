"""A spool directory that is removed under the running server, with the home in it."""

from __future__ import annotations

import shutil

import pytest

from tests.support.ledger import wait_until
from tests.support.server import RemoteError

APP = """
import time
import uwsgi_tasks.engine
from uwsgi_tasks import TaskExecutor, task

@task
def ran(tag):
    note("ran", tag=tag)

@task(executor=TaskExecutor.MULE)
def muled(tag):
    note("muled", tag=tag)
"""


def remove(directory):
    """Remove a directory at once: the server goes on writing into it."""
    gone = directory.rename(directory.with_name("gone"))
    shutil.rmtree(gone, ignore_errors=True)


def test_given_a_directory_that_is_gone_when_called_then_it_is_not_available(uwsgi):
    server = uwsgi(APP)
    server.call("ran", 1)
    server.ledger.wait_one("ran", tag=1)
    remove(server.spool)
    with pytest.raises(RemoteError) as caught:
        server.call("ran", 2)
    assert "NotAvailable" in caught.value.kinds


def test_given_a_directory_made_again_when_called_then_tasks_run_as_before(uwsgi):
    server = uwsgi(APP, "mule = true")
    server.call("ran", 1)
    server.call("muled", 1)
    server.ledger.wait_one("ran", tag=1)
    server.ledger.wait_one("muled", tag=1)
    remove(server.spool)
    server.spool.mkdir(mode=0o700)
    is_seen = "not uwsgi_tasks.engine.current().present_site().home.is_replaced()"
    wait_until(lambda: server.eval(is_seen) and server.home.exists(), what="the worker sees it")
    server.call("ran", "again")
    server.call("muled", "again")
    server.ledger.wait("ran", tag="again")
    server.ledger.wait("muled", tag="again")
    server.eval("ran.options(at=time.time() + 0.2)(2)")
    server.ledger.wait("ran", tag=2)
    assert server.letters() == {}
    assert "Traceback" not in server.log()
