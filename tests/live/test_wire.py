"""What travels: arguments of any size, and messages that nobody with our key wrote."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct

import pytest

from uwsgi_tasks import wire
from uwsgi_tasks.model import Message, new_id

APP = """
import hashlib, os
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def takes(*args, **kwargs):
    note("ran", args=repr(args)[:200], kwargs=repr(kwargs)[:200])

@task(executor=TaskExecutor.SPOOLER)
def digests(data):
    note("ran", size=len(data), digest=hashlib.sha256(data).hexdigest())

@task(executor=TaskExecutor.SPOOLER, serializer="json")
def takes_json(*args, **kwargs):
    note("ran", args=repr(args)[:200], kwargs=repr(kwargs)[:200])
"""


@pytest.mark.parametrize("size", [0, 4_000, 65_535, 65_536, 70_000, 5_000_000])
def test_given_arguments_of_any_size_when_run_then_they_are_whole(uwsgi, size):
    server = uwsgi(APP)
    digest = server.eval(
        "(d := os.urandom(n), digests(d), hashlib.sha256(d).hexdigest())[2]", n=size
    )
    row = server.ledger.wait_one("ran")
    assert (row["size"], row["digest"]) == (size, digest)


@pytest.mark.parametrize("task", ["takes", "takes_json"])
def test_given_positional_and_keyword_arguments_when_run_then_they_arrive(uwsgi, task):
    server = uwsgi(APP)
    server.eval(f"{task}(1, 'ä', None, spooler='s', at=2, priority='p', body=[1.5])")
    row = server.ledger.wait_one("ran")
    assert row["args"] == "(1, 'ä', None)"
    assert row["kwargs"] == "{'spooler': 's', 'at': 2, 'priority': 'p', 'body': [1.5]}"


def test_given_the_setting_serializer_json_when_spooled_then_no_pickle_lies_in_the_file(uwsgi):
    server = uwsgi(APP, "set-ph = tasks-serializer=json")
    content = spooled_but_not_run(server, "takes('needle')")
    assert b'"needle"' in content.read_bytes()


def spooled_but_not_run(server, code):
    """Stop the spooler, call, and return the file that lies there."""
    server.freeze()
    server.eval(code)
    (path,) = server.spool_files()
    return path


def put(server, name, content):
    """Put a file into the spool as anyone who may write there could."""
    temporary = server.dir / name
    temporary.write_bytes(content)
    temporary.rename(server.spool / f"uwsgi_spoolfile_on_{name}")
    for pid in server.pids("spooler"):
        server.kill(pid, signal.SIGUSR1)


def part_of(content, part):
    start = content.index(wire.MAGIC)
    return {
        "signature": start + 4,
        "header": start + 4 + wire.MAC_SIZE + 2,
        "task": content.index(b"app.takes") + 4,
        "payload": len(content) - 4,
    }[part]


@pytest.mark.parametrize("part", ["signature", "header", "task", "payload"])
def test_given_a_spool_file_with_a_flipped_bit_when_found_then_it_is_a_dead_letter_not_run(
    uwsgi, part
):
    server = uwsgi(APP)
    path = spooled_but_not_run(server, "takes('x')")
    content = bytearray(path.read_bytes())
    content[part_of(bytes(content), part)] ^= 1
    path.write_bytes(bytes(content))
    server.thaw()
    letter = server.wait_letter()
    assert "sign" in (letter["reason"] + letter["error"]).lower()
    assert server.ledger.rows() == []


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_given_a_message_signed_with_another_key_when_found_then_nothing_in_it_is_unpickled(uwsgi):
    server = uwsgi(APP)
    crater = server.dir / "crater"
    payload = pickle.dumps(((Bomb(str(crater)),), {}))
    forged = wire.pack(Message(new_id(), "app.takes", payload), wire.Signer([b"a key of my own"]))
    put(server, "forged", wire.spool_file(forged))
    server.wait_letter()
    assert not crater.exists()
    assert server.ledger.rows() == []


def test_given_a_cut_message_of_ours_when_found_then_it_is_a_dead_letter(uwsgi):
    server = uwsgi(APP)
    path = spooled_but_not_run(server, "takes('x')")
    path.write_bytes(path.read_bytes()[:-10])
    server.thaw()
    server.wait_letter()
    server.wait_empty()
    assert server.ledger.rows() == []


def packet(variables):
    body = b"".join(
        struct.pack("<H", len(k)) + k + struct.pack("<H", len(v)) + v for k, v in variables.items()
    )
    return struct.pack("<BHB", 17, len(body), 0) + body


@pytest.mark.parametrize(
    "variables",
    [
        {b"hello": b"world"},
        {wire.MARK: b"1"},
        {wire.MARK: b"1", wire.PACKET_KEY: b"UWT\x01" + bytes(200)},
        {wire.MARK: b"1", wire.PACKET_KEY: b""},
        {b"setup": pickle.dumps({"a": 1}), b"func_name": b"app.takes"},
    ],
    ids=["foreign", "mark alone", "zeros", "empty", "like 0.7.3"],
)
def test_given_a_foreign_packet_on_the_socket_when_spooled_then_it_is_kept_and_not_run(
    uwsgi, variables
):
    server = uwsgi(APP, "socket = {dir}/uwsgi.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.dir / "uwsgi.sock"))
        client.sendall(packet(variables))
        assert client.recv(4) == b"\xff\x00\x00\x01"
    server.wait_letter()
    server.wait_empty()
    assert server.ledger.rows() == []


def test_given_a_bad_message_when_it_was_buried_then_good_ones_still_run(uwsgi):
    server = uwsgi(APP)
    put(server, "forged", wire.spool_file(b"UWT\x01" + bytes(300)))
    server.wait_letter()
    server.eval("takes('good')")
    assert server.ledger.wait_one("ran")["args"] == "('good',)"


def test_given_a_message_of_a_newer_version_when_found_then_it_is_kept(uwsgi):
    server = uwsgi(APP)
    put(server, "newer", wire.spool_file(b"UWT\x63" + bytes(300)))
    server.wait_log("99")
    assert server.spool_files() or server.letters()


def test_given_a_key_was_rotated_when_started_again_then_messages_of_the_old_key_run(uwsgi):
    env = {"UWSGITASKS_SECRET": "the first secret of all"}
    server = uwsgi(APP, env=env)
    spooled_but_not_run(server, "takes('old key')")
    server.kill_everything()
    env["UWSGITASKS_SECRET"] = "the second secret of all,the first secret of all"
    server.start_again()
    server.ledger.wait_one("ran", args="('old key',)")


def test_given_another_key_when_started_again_then_a_call_says_so_and_nothing_is_buried(uwsgi):
    env = {"UWSGITASKS_SECRET": "the first secret of all"}
    server = uwsgi(APP, env=env)
    spooled_but_not_run(server, "takes('old key')")
    server.kill_everything()
    env["UWSGITASKS_SECRET"] = "a wholly different secret"
    server.start_again()
    server.wait_log("another key")
    assert (len(server.spool_files()), server.letters()) == (1, {})
