"""A file that lies in a spool while its spooler sleeps is noticed; else nobody looks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from tests.unit.children import Child, forks
from uwsgi_tasks import engine, inflight
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.inflight import Instance
from uwsgi_tasks.lookout import Lookout


@pytest.fixture
def server(fake, monkeypatch):
    """A server with two spoolers on one directory; ``woken`` lists whom a signal woke."""
    found = fake()
    found.pids = [12345]
    found.woken = []
    this = engine.current()
    monkeypatch.setattr(this.server, "spooler_pids", lambda spool: [12345, 12346])
    monkeypatch.setattr(
        this.server, "wake", lambda spool, tell=None: found.woken.append(spool) or True
    )
    return found


@pytest.fixture
def lookout(server):
    this = engine.current()
    return Lookout(this, this.require_site())


def lie(spool, age=5.0, message=None):
    message = message or a_message()
    path = Path(spool, to_spool.file_name(message.id, message.delivery))
    path.write_bytes(b"content")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_given_an_empty_spool_when_looked_at_then_nobody_looks_again(lookout, server):
    lookout.site.home.note_activity()
    assert (lookout.look(time.time()), server.woken) == (False, [])
    assert lookout.site.home.note_activity() is True


def test_given_an_old_file_when_looked_at_then_the_spoolers_are_woken(lookout, server, spool):
    lie(spool)
    assert (lookout.look(time.time()), server.woken) == (True, [spool])


def test_given_a_young_file_when_looked_at_then_it_is_looked_at_again(lookout, server, spool):
    lie(spool, age=0)
    assert (lookout.look(time.time()), server.woken) == (True, [])


def test_given_a_file_that_uwsgi_passes_over_when_looked_at_then_it_is_left_alone_in_the_end(
    lookout, server, spool
):
    lie(spool)
    looks = [lookout.look(time.time()) for _ in range(6)]
    assert (looks[-1], len(server.woken)) == (False, 3)


def test_given_a_file_of_the_future_when_looked_at_then_nobody_is_woken(lookout, server, spool):
    lie(spool, age=-600)
    assert (lookout.look(time.time()), server.woken) == (True, [])


@forks
@pytest.mark.parametrize(("others", "expected"), [(0, 0), (1, 1)])
def test_given_a_file_in_hand_when_looked_at_then_only_others_are_a_reason(
    lookout, server, spool, others, expected
):
    message = a_message()
    lie(spool, message=message)
    for _ in range(others):
        lie(spool)

    def in_hand():
        lookout.site.inflight.claim(inflight.SPOOLER, 0, Instance(1, 2))
        lookout.site.inflight.begin(message.id, message.delivery)

    with Child(in_hand):
        assert (lookout.look(time.time()), len(server.woken)) == (True, expected)


@pytest.mark.parametrize("alone", [True, False])
def test_given_a_pause_when_looked_at_then_nobody_is_woken(lookout, server, spool, alone):
    lie(spool)
    if alone:
        lookout.site.home.pause_spool(spool, True)
    else:
        lookout.site.home.pause(True)
    assert (lookout.look(time.time()), server.woken) == (False, [])


def test_given_a_spool_that_is_gone_when_looked_at_then_there_is_nothing(lookout, server, spool):
    os.rename(spool, f"{spool}-away")
    os.mkdir(spool)
    os.rename(f"{spool}-away/.uwsgi_tasks", f"{spool}/.uwsgi_tasks")
    os.rmdir(f"{spool}-away")
    assert lookout.look(time.time()) is False
