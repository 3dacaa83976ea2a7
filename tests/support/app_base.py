"""What the applications of the live tests share: a ledger to write to, and an endpoint to be told.

Imported inside uWSGI as ``app_base``; the test's own application is the module ``app``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HANDLES: dict[str, Any] = {}


def note(event: str, **fields: Any) -> None:
    """Append one row to the ledger, in one write, so that processes don't mix their rows."""
    row = {"event": event, "time": time.time(), "pid": os.getpid(), **fields}
    data = (json.dumps(row, default=repr) + "\n").encode()
    descriptor = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def wait_for_file(name: str, timeout: float = 30.0) -> None:
    """Block until the test lets go (``server.touch(name)``): a task that is busy for as long."""
    path = Path(os.environ["TEST_DIR"], name)
    deadline = time.monotonic() + timeout
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def place() -> str:
    """Return where this code runs: ``worker``, ``spooler``, ``mule1`` … or ``master``."""
    import uwsgi

    if uwsgi.mule_id():
        return f"mule{uwsgi.mule_id()}"
    if getattr(uwsgi, "i_am_the_spooler", lambda: None)():
        return "spooler"
    return "worker" if uwsgi.worker_id() else "master"


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer a ping, or evaluate an expression in the test's application."""
    if environ["PATH_INFO"] == "/eval":
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = json.dumps(
            _plain(_evaluate(json.loads(environ["wsgi.input"].read(size)))), default=repr
        )
    else:
        body = json.dumps({"value": os.getpid()})
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body.encode()]


def _evaluate(request: dict[str, Any]) -> dict[str, Any]:
    named = [name for name in sys.modules if name.startswith("uwsgi_file_")]
    module = importlib.import_module(named[0] if named else "app")
    try:
        return {"value": eval(request["code"], {**vars(module), **request["names"]})}
    except Exception as error:
        return {
            "error": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "traceback": traceback.format_exc(),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "status") and hasattr(value, "id"):
        HANDLES[value.id] = value
        return {"id": value.id, "executor": value.executor.name}
    return value
