"""What somebody without the key, or with a borrowed one, puts where messages come in."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.server import UwsgiServer
from uwsgi_tasks import wire
from uwsgi_tasks.executors.spooler import FILE_PREFIX, file_name
from uwsgi_tasks.model import Message, new_id

OTHER_KEY = wire.Signer([b"a key of somebody else's own"])


class Bomb:
    """Unpickled, it calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def crater(server: UwsgiServer) -> Path:
    """Return the path of what a bomb makes where it goes off."""
    return server.dir / "crater"


def bomb(server: UwsgiServer) -> Bomb:
    return Bomb(os.mkdir, str(crater(server)))


def signer_of(server: UwsgiServer) -> wire.Signer:
    """Return the signer of a server: what one who may read its home can sign with."""
    return wire.Signer([(server.home / "key").read_bytes()])


def envelope(signer: wire.Signer, task: str, *args: Any, **fields: Any) -> tuple[str, bytes]:
    """Return the id and the envelope of a message."""
    message = Message(new_id(), task, pickle.dumps((args, {})), **fields)
    return message.id, wire.pack(message, signer)


def put(server: UwsgiServer, name: str | bytes, content: bytes) -> Path:
    """Put a file into the spool, as anyone who may write there could, and wake the spoolers."""
    temporary = server.dir / f"new-{new_id()}"
    temporary.write_bytes(content)
    os.chmod(temporary, 0o600)
    path = server.spool / f"{FILE_PREFIX}{os.fsdecode(name)}"
    temporary.rename(path)
    wake(server)
    return path


def put_message(server: UwsgiServer, ident: str, data: bytes) -> Path:
    """Put an envelope into the spool under its own name."""
    return put(server, file_name(ident, 1).removeprefix(FILE_PREFIX), wire.spool_file(data))


def wake(server: UwsgiServer) -> None:
    for pid in server.pids("spooler"):
        server.kill(pid, signal.SIGUSR1)


def packet(variables: dict[bytes, bytes]) -> bytes:
    """Return a uwsgi packet for a spooler, as ``wire.spool_packet`` makes it."""
    body = b"".join(
        struct.pack("<H", len(k)) + k + struct.pack("<H", len(v)) + v for k, v in variables.items()
    )
    return struct.pack("<BHB", 17, len(body), 0) + body


def send(server: UwsgiServer, data: bytes) -> bytes:
    """Send a packet to the server's uwsgi socket; return the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(server.dir / "uwsgi.sock"))
        client.sendall(data)
        try:
            return client.recv(4)
        except ConnectionResetError:
            return b""


def old_file(task: str, args: Any) -> bytes:
    """Return the content of a file as release 0.7.3 wrote it."""
    pairs = {
        b"function_name": task.encode(),
        b"args": pickle.dumps(args),
        b"kwargs": pickle.dumps({}),
        b"setup": pickle.dumps({}),
    }
    return packet(pairs)


def mutations(genuine: list[bytes], forged: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield, for ever, what is made of genuine messages without the key; none is genuine."""
    chance = random.Random(seed)
    while True:
        one, other = chance.choice(genuine), chance.choice(genuine)
        at, end = sorted(chance.randrange(len(one) + 1) for _ in range(2))
        some = chance.randbytes(chance.randrange(1, 30))
        flipped = bytearray(one)
        flipped[chance.randrange(len(one))] ^= 1 << chance.randrange(8)
        made = chance.choice(
            [
                bytes(flipped),
                one[:at] + some + one[at:],
                one[:at] + some + one[end:],
                one[:at] + one[end:],
                one[:at],
                one[at:],
                one + some,
                one[:at] + other[at:],
                one[:end] + one[at:],
                chance.choice(forged),
                chance.randbytes(chance.randrange(300)),
                wire.MAGIC + chance.randbytes(chance.randrange(300)),
            ]
        )
        if made not in genuine:
            yield made
