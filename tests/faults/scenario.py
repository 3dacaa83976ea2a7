"""What a fault test sends to a server: a workload that passes every step, and a shot in it."""

from __future__ import annotations

import functools
import os
import pwd
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

from . import actions
from .checker import Checker
from .workload import APP, FILES

LINES = ("mule = true", "spooler-ordered = true")
PATIENCE_S = 30.0


class Call(NamedTuple):
    """One call of a workload: a task of ``workload.APP``, and its options."""

    name: str
    options: Mapping[str, Any] = MappingProxyType({})
    args: tuple[Any, ...] = ()


WORKLOADS = {
    "steady": (
        Call("good"),
        Call("retries"),
        Call("dies"),
        Call("good", {"at": 0.2}),
        Call("good", {"priority": 5}),
        Call("exhausted", {"priority": 1}),
        Call("retries_later"),
    ),
    "swapped": (Call("good", {"priority": 5}), Call("good", {"priority": 1})),
    "muled": (Call("muled"), Call("mule_retries"), Call("mule_retries_later"), Call("mule_dies")),
    "deadly": (Call("stumbles"), Call("good")),
    "deadly in a mule": (Call("mule_stumbles"), Call("muled")),
}


def start(
    factory: Callable[..., UwsgiServer], *lines: str, source: str = "", **options: Any
) -> UwsgiServer:
    """Start a server for scenarios, as nobody where root runs the tests and that is possible.

    Args:
        factory: Makes a server that isn't started.
        lines: More lines of its ini file.
        source: More of its application.
        options: See ``UwsgiServer``.
    """
    if os.getuid() == 0 and not why_not_ordinary():
        nobody = pwd.getpwnam("nobody")
        lines += (f"uid = {nobody.pw_uid}", f"gid = {nobody.pw_gid}")
        options["owner"] = (nobody.pw_uid, nobody.pw_gid)
    server = factory(APP + source, *LINES, *lines, files=FILES, **options)
    make_spool(server)
    server.ledger.path.touch()
    server.touch("touched")
    owner = server.dir.stat()
    os.chown(server.ledger.path, owner.st_uid, owner.st_gid)
    return server.start()


def make_spool(server: UwsgiServer) -> None:
    """Make the spool directory, for the user who owns all."""
    server.spool.mkdir()
    owner = server.dir.stat()
    os.chown(server.spool, owner.st_uid, owner.st_gid)


@functools.cache
def why_not_ordinary() -> str:
    """Return why no server can run as an ordinary user here."""
    if os.getuid():
        return ""
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{sys.base_prefix} can't be read by nobody"
    return ""


def send_all(server: UwsgiServer, calls: tuple[Call, ...]) -> None:
    """Send a workload while the spooler is busy, and start a server that died of it again."""
    gate = f"go-{uuid.uuid4().hex[:8]}"
    try:
        for call in (Call("held", args=(gate,)), *calls):
            actions.revive(server)
            actions.send(server, call.name, *call.args, **call.options)
    finally:
        server.touch(gate)


def shoot(
    server: UwsgiServer,
    calls: tuple[Call, ...],
    *,
    spoolers: int = 1,
    **shot: Any,
) -> None:
    """Let a shot fall in a workload, and check it.

    Raises:
        AssertionError: The shot wasn't fired, or a rule is broken.
    """
    actions.revive(server)
    checker, before = Checker(server, spoolers=spoolers), server.process
    token = actions.arm(server, **shot)
    try:
        send_all(server, calls)
        wait_until(lambda: actions.was_fired(server, token), PATIENCE_S, f"{shot} is fired")
    finally:
        actions.disarm(server)
    if shot.get("everything"):
        wait_until(  # what sent the workload may have started it again
            lambda: server.process is not before or is_dead(server), PATIENCE_S, "all are dead"
        )
        actions.revive(server)
    checker.wait(PATIENCE_S)


def is_dead(server: UwsgiServer) -> bool:
    """Tell whether the master has ended."""
    return server.process is None or server.process.poll() is not None
