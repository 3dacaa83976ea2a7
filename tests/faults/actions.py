"""What a fault test does to a server; each death is noted in the ledger before it happens."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

SUPPORT = Path(__file__).parents[1] / "support"


def note(server: UwsgiServer, event: str, **fields: Any) -> None:
    """Append a row to the ledger from the test's side."""
    row = {"event": event, "time": time.time(), "pid": 0, **fields}
    with open(server.ledger.path, "ab", buffering=0) as file:
        file.write((json.dumps(row) + "\n").encode())


def arm(
    server: UwsgiServer,
    step: str,
    when: str,
    *,
    n: int = 1,
    kind: str = "any",
    everything: bool = False,
    first: tuple[str, str] | None = None,
) -> str:
    """Let the n-th call of a step kill its process, or all of the server; return the token.

    Args:
        server: The server.
        step: A name of ``points.STEPS``.
        when: ``before`` or ``after``.
        n: Which of its calls in a process.
        kind: Kind of process: ``worker``, ``spooler``, ``mule``, ``outside`` or ``any``.
        everything: Kill all of the server.
        first: Step and moment at which a process of that kind is killed before.
    """
    token = uuid.uuid4().hex[:12]
    shot = _shot(token, step, when, n=n, kind=kind, everything=everything)
    if first:
        shot = _shot(uuid.uuid4().hex[:12], *first, kind=kind, then=shot)
    path = server.write("fault.armed", json.dumps(shot))
    path.rename(server.dir / "fault")
    return token


def _shot(token: str, step: str, when: str, **more: Any) -> dict[str, Any]:
    usual = {"n": 1, "kind": "any", "everything": False, "then": None}
    return {**usual, "token": token, "step": step, "when": when, **more}


def disarm(server: UwsgiServer) -> None:
    """Take a shot back that hasn't been fired."""
    (server.dir / "fault").unlink(missing_ok=True)


def was_fired(server: UwsgiServer, token: str) -> bool:
    """Tell whether a shot was fired."""
    return bool(server.ledger.rows("killed", token=token))


def send(server: UwsgiServer, name: str, *args: Any, **options: Any) -> str:
    """Call a task in a worker; return its id, or nothing where the worker died in it."""
    return _ident(server, "send(name, args, **options)", name, args, options)


def cancel(server: UwsgiServer, name: str, **options: Any) -> str:
    """Call a task in a worker and cancel it at once."""
    return _ident(server, "send_and_cancel(name, **options)", name, (), options)


def _ident(server: UwsgiServer, code: str, name: str, args: Any, options: Any) -> str:
    try:
        answer = server.eval(code, timeout=20.0, name=name, args=args, options=options)
    except (OSError, http.client.HTTPException):
        return ""
    return str(answer["id"])


def send_from_outside(
    server: UwsgiServer, name: str, *, configured: bool = False, **options: Any
) -> int:
    """Call a task in a plain Python; return its exit code, negative where it was killed."""
    library = importlib.util.find_spec("uwsgi_tasks")
    assert library is not None
    assert library.submodule_search_locations
    package = Path(next(iter(library.submodule_search_locations)))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UWSGI", "COV", "PYTEST"))}
    env["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(SUPPORT), str(server.dir)])
    env.update(TEST_LEDGER=str(server.ledger.path), TEST_DIR=str(server.dir))
    code = f"import app; app.send({name!r}, **{options!r})"
    if configured:
        code = f"import uwsgi_tasks as u; u.configure(spooler={str(server.spool)!r}); {code}"
    else:
        env["UWSGITASKS_SPOOLER"] = str(server.spool)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd="/", timeout=30, check=False)
    return done.returncode


def kill(server: UwsgiServer, pid: int, sig: int = signal.SIGKILL, kind: str = "") -> None:
    """Kill one process, or tell it to end."""
    how = "kill" if sig == signal.SIGKILL else "term"
    note(server, "killed", pid=pid, how=how, step="outside", kind=kind)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


def kill_one(server: UwsgiServer, kind: str, number: int = 0, sig: int = signal.SIGKILL) -> int:
    """Kill one of the processes of a kind, if one lives; return its pid or 0."""
    pids = server.pids(kind)
    if not pids:
        return 0
    kill(server, pids[number % len(pids)], sig, kind)
    return pids[number % len(pids)]


def reload(server: UwsgiServer) -> None:
    """Reload it as an operator does."""
    with stopping(server, "reload"):
        server.reload()


def restart(server: UwsgiServer, how: int = signal.SIGINT) -> None:
    """Stop it in order and start it again."""
    with stopping(server, "stop"):
        server.stop(how)
    server.start_again()


def kill_everything(server: UwsgiServer) -> None:
    """Kill every process at once."""
    with stopping(server, "all"):
        server.kill_everything()


@contextlib.contextmanager
def stopping(server: UwsgiServer, how: str) -> Iterator[None]:
    """Note that every process of the server ends in a block, and which live after it."""
    note(server, "stopping", how=how)
    try:
        yield
    finally:
        note(server, "stopped", how=how, alive=server.all_pids())


def revive(server: UwsgiServer) -> None:
    """Start it again if its master is dead, or was killed together with everything."""
    if server.process is None or server.process.poll() is not None:
        server.kill_everything()
        server.start_again()


def kill_master(server: UwsgiServer) -> None:
    """Kill the master alone, let the spoolers end what they have in hand, and start a new one."""
    assert server.process is not None
    session, spoolers = server.master, server.pids("spooler")
    note(server, "killed", pid=session, how="master", step="outside")
    for pid in set(server.all_pids()) - {session, *spoolers}:
        note(server, "killed", pid=pid, how="kill", step="their master is dead")
    server.process.kill()
    server.process.wait(10)
    wait_until(lambda: not any(map(processes.is_alive, spoolers)), 15.0, "the spoolers end")
    for pid in processes.of_session(session):
        kill(server, pid)
    wait_until(lambda: not processes.of_session(session), what="the old session is gone")
    server.process = None
    server.start_again()
