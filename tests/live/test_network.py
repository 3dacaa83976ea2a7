"""Handing a message to another instance's spooler over its uwsgi socket."""

from __future__ import annotations

import socket

import pytest

from tests.support.server import RemoteError

APP = """
from uwsgi_tasks import task, TaskExecutor, SPOOL_RETRY, get_current_task

@task(executor=TaskExecutor.SPOOLER)
def takes(data, tag="x"):
    note("ran", size=len(data), tag=tag, id=get_current_task().id)

@task(executor=TaskExecutor.SPOOLER, retry_count=2)
def fails(tag="x"):
    note("attempt", tag=tag)
    raise KeyError(tag)
"""
SECRET = {"UWSGITASKS_SECRET": "a secret that both know"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def consumer(uwsgi):
    return uwsgi(APP, "socket = {dir}/uwsgi.sock", "buffer-size = 65535", env=SECRET)


def send(producer, consumer, code="takes.options(spooler=address)('x')"):
    return producer.eval(code, address=f"uwsgi://{consumer.dir}/uwsgi.sock")


def test_given_the_same_secret_when_handed_over_then_the_other_instance_runs_it(uwsgi, consumer):
    producer = uwsgi(APP, env=SECRET)
    handle = send(producer, consumer)
    assert consumer.ledger.wait_one("ran")["id"] == handle["id"]


def test_given_a_port_when_handed_over_then_the_other_instance_runs_it(uwsgi):
    port = free_port()
    consumer = uwsgi(APP, f"socket = 127.0.0.1:{port}", env=SECRET)
    producer = uwsgi(APP, spooler=False, env=SECRET)
    producer.eval("takes.options(spooler=a)('x')", a=f"uwsgi://127.0.0.1:{port}")
    consumer.ledger.wait_one("ran")


def test_given_the_address_in_the_decorator_when_called_then_the_other_instance_runs_it(
    uwsgi, consumer
):
    address = f"uwsgi://{consumer.dir}/uwsgi.sock"
    producer = uwsgi(APP + f"far = task(spooler={address!r})(takes.function)\n", env=SECRET)
    producer.call("far", "x", "decorated")
    consumer.ledger.wait_one("ran", tag="decorated")


def test_given_a_message_that_fits_the_packet_when_handed_over_then_it_arrives_whole(
    uwsgi, consumer
):
    producer = uwsgi(APP, env=SECRET)
    send(producer, consumer, "takes.options(spooler=address)('x' * 60_000)")
    assert consumer.ledger.wait_one("ran")["size"] == 60_000


def test_given_a_message_over_the_packet_when_handed_over_then_it_is_refused(uwsgi, consumer):
    producer = uwsgi(APP, env=SECRET)
    with pytest.raises(RemoteError) as caught:
        send(producer, consumer, "takes.options(spooler=address)('x' * 70_000)")
    assert caught.value.kind == "MessageTooBig"


def test_given_a_message_over_the_other_sides_buffer_when_handed_over_then_the_cure_is_named(uwsgi):
    consumer = uwsgi(APP, "socket = {dir}/uwsgi.sock", env=SECRET)
    producer = uwsgi(APP, env=SECRET)
    with pytest.raises(RemoteError, match="buffer-size") as caught:
        send(producer, consumer, "takes.options(spooler=address)('x' * 20_000)")
    assert caught.value.kind == "MessageTooBig"


def test_given_another_secret_when_handed_over_then_it_is_a_dead_letter_there(uwsgi, consumer):
    producer = uwsgi(APP, env={"UWSGITASKS_SECRET": "a secret of its very own"})
    send(producer, consumer)
    consumer.wait_letter()
    assert consumer.ledger.rows() == []


def test_given_no_secret_when_handed_over_then_the_error_names_the_setting(uwsgi, consumer):
    producer = uwsgi(APP)
    with pytest.raises(RemoteError, match=r"(?i)secret") as caught:
        send(producer, consumer)
    assert caught.value.kind == "NotAvailable"


def test_given_nobody_listens_when_handed_over_then_it_is_not_available(uwsgi):
    producer = uwsgi(APP, env=SECRET)
    with pytest.raises(RemoteError) as caught:
        producer.eval("takes.options(spooler='uwsgi:///nowhere.sock')('x')")
    assert caught.value.kind == "NotAvailable"


def test_given_an_instance_without_spooler_when_handed_over_then_it_is_not_available(uwsgi):
    consumer = uwsgi(APP, "socket = {dir}/uwsgi.sock", spooler=False, env=SECRET)
    producer = uwsgi(APP, env=SECRET)
    with pytest.raises(RemoteError) as caught:
        send(producer, consumer)
    assert caught.value.kind == "NotAvailable"


def test_given_a_task_that_fails_over_there_when_retried_then_it_is_retried_there(uwsgi, consumer):
    producer = uwsgi(APP, env=SECRET)
    handle = send(producer, consumer, "fails.options(spooler=address)('f')")
    letter = consumer.wait_letter(handle["id"])
    assert len(consumer.ledger.rows("attempt")) == 2
    assert len(letter["attempts"]) == 2


def test_given_a_wrong_address_when_called_then_it_is_a_value_error(uwsgi):
    producer = uwsgi(APP, env=SECRET)
    with pytest.raises(RemoteError) as caught:
        producer.eval("takes.options(spooler='uwsgi://host:notaport')('x')")
    assert "ValueError" in caught.value.kinds
