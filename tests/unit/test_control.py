"""Steering a server: paused, resumed, drained, reloaded, and who is busy."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from tests.support.messages import a_message
from tests.unit.children import Child, forks
from uwsgi_tasks import consumer, control, engine, inflight
from uwsgi_tasks.errors import NotAvailable
from uwsgi_tasks.model import TaskExecutor, TaskSpec

SPOOLER = TaskExecutor.SPOOLER


def process(function, spool):
    engine.registry.add(TaskSpec("app.task", function))
    engine.current().process(a_message(), SPOOLER, spool)


def claim(kind=inflight.SPOOLER):
    this = engine.current()
    this.require_site().inflight.claim(kind, 1, consumer.instance_of(this.server))


def runs():
    claim()
    engine.current().require_site().inflight.begin(a_message().id, 1)


def test_given_a_pause_when_asked_then_it_is_paused_until_resumed(fake):
    fake()
    control.pause()
    assert control.paused() is True
    control.resume()
    assert control.paused() is False


@pytest.mark.parametrize("kind", [inflight.SPOOLER, inflight.MULE])
def test_given_a_task_in_hand_when_counted_then_it_is_told_until_it_ends(fake, spool, kind):
    fake(mules=2)
    this = engine.current()
    this.site().inflight.claim(kind, 1, consumer.instance_of(this.server))
    seen = []
    process(lambda: seen.append(control.busy()), spool=spool)
    assert (seen, control.busy()) == ([1], 0)


@pytest.mark.parametrize("what", [control.pause, control.resume, control.paused, control.busy])
def test_given_no_home_when_steered_then_the_cure_is_told(what):
    with pytest.raises(NotAvailable, match="UWSGITASKS_HOME"):
        what()


# drained


def test_given_nothing_that_runs_when_drained_then_it_is_paused_and_stays_so(fake):
    fake()
    assert (control.drain(0), control.paused()) == (True, True)


@forks
@pytest.mark.parametrize("timeout", [0.05, timedelta(milliseconds=50)], ids=str)
def test_given_a_task_that_runs_on_when_drained_then_it_is_told_and_stays_paused(fake, timeout):
    fake()
    engine.current().require_site().inflight.records()
    with Child(runs):
        assert (control.drain(timeout), control.paused()) == (False, True)
    assert control.drain(0) is True


def test_given_a_task_that_drains_when_nothing_else_runs_then_it_does_not_wait_for_itself(
    fake, spool
):
    fake()
    claim()
    seen = []
    process(lambda: seen.append(control.drain(5)), spool)
    assert seen == [True]


# reloaded


def test_given_nothing_that_runs_when_reloaded_then_the_server_is_told_and_it_is_paused(fake):
    server = fake()
    assert (control.reload(0), server.reloads, control.paused()) == (True, 1, True)


@forks
def test_given_a_task_that_runs_on_when_reloaded_then_the_server_goes_on(fake):
    server = fake()
    engine.current().require_site().inflight.records()
    with Child(runs):
        assert (control.reload(0.05), server.reloads, control.paused()) == (False, 0, False)


@forks
def test_given_a_pause_before_when_it_is_not_reloaded_then_it_stays_paused(fake):
    fake()
    control.pause()
    with Child(runs):
        assert (control.reload(0), control.paused()) == (False, True)


def test_given_a_task_that_reloads_its_own_server_when_asked_then_it_is_refused(fake, spool):
    server, seen = fake(), []
    claim()

    def reloads():
        with pytest.raises(NotAvailable, match="would interrupt that very task") as caught:
            control.reload()
        seen.append(caught.value)

    process(reloads, spool)
    assert (len(seen), server.reloads, control.paused()) == (1, 0, False)


def test_given_a_master_s_fifo_when_reloaded_then_it_gets_one_letter(fake, tmp_path):
    server = fake()
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert control.reload(0, fifo=str(tmp_path / "fifo")) is True
        assert (os.read(reader, 9), server.reloads) == (b"r", 0)
    finally:
        os.close(reader)


@pytest.mark.parametrize("there", [True, False])
def test_given_a_fifo_that_no_master_reads_when_reloaded_then_it_is_told_and_not_paused(
    fake, tmp_path, there
):
    fake()
    if there:
        os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAvailable, match=r"No master listens at .*fifo"):
        control.reload(0, fifo=str(tmp_path / "fifo"))
    assert control.paused() is False


def test_given_no_server_and_no_fifo_when_reloaded_then_the_cure_is_told(tmp_path):
    engine.configure(home=str(tmp_path))
    with pytest.raises(NotAvailable, match="fifo=PATH"):
        control.reload()
