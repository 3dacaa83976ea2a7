"""Two worlds that keep the same contract: a fake server in this process, and a real uWSGI.

Both give ``call``, ``settle``, ``rows`` and ``letter``; the tests don't know which one they are in.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

from tests.contract.app import SOURCE
from tests.support.fake_uwsgi import FakeUwsgi
from tests.support.ledger import Row, wait_until
from tests.support.server import RemoteError, UwsgiServer
from uwsgi_tasks import engine, finding, handlers, wire
from uwsgi_tasks.executors.spooler import FILE_PREFIX

NAME = "app"
Options = dict[str, Any]


class FakeWorld:
    """The fake server: what lies in the spool and in the mule's queue is handed on until none is.

    Args:
        folder: Where the spool lies.
    """

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.fake = FakeUwsgi(spoolers=[self.spool], mules=1)
        engine.reset(engine.Engine(self.fake.server()))
        handlers._state.update(spool=str(self.spool))
        self._ledger: list[Row] = []
        self.module = types.ModuleType(NAME)
        vars(self.module)["note"] = self._note
        sys.modules[NAME] = self.module
        exec(compile(SOURCE, "app.py", "exec"), vars(self.module))
        os.chdir(folder)

    def _note(self, event: str, **fields: Any) -> None:
        row = json.loads(json.dumps({"event": event, **fields}))
        self._ledger.append(row)

    def call(self, task: str, *args: Any, options: Options, **kwargs: Any) -> Any:
        """Submit a call; return its handle, ``None`` where RUNTIME raised."""
        wanted = getattr(self.module, task).options(**options)
        return self.module.swallow(lambda: wanted(*args, **kwargs))

    def refusal(self, task: str, code: str, options: Options) -> tuple[str, str]:
        """Call with an expression as argument; return the class and text of what it raised."""
        try:
            getattr(self.module, task).options(**options)(eval(code))
        except Exception as error:
            return type(error).__name__, str(error)
        raise AssertionError("it was taken")

    def settle(self, handle: Any, tag: str) -> None:
        """Let everything run that waits, whenever it is due."""
        while self._run_files() or self._run_messages() or self._promote():
            pass

    def _run_files(self) -> bool:
        names = sorted(name for name in os.listdir(self.spool) if name.startswith(FILE_PREFIX))
        for name in names:
            path = self.spool / name
            body = wire.envelope_of_file(path.read_bytes())
            env = {"spooler_task_name": name, wire.MARK: b"1", "body": body}
            directory = os.getcwd()
            os.chdir(self.spool)  # as uWSGI does before each task
            result = handlers.on_spool(env)
            os.chdir(directory)
            assert result == -2, "the file would stay"
            path.unlink()
        return bool(names)

    def _run_messages(self) -> bool:
        taken, self.fake.queue = self.fake.queue, []
        self.fake.mule = 1
        for data, _ in taken:
            handlers.on_mule_message(data)
        self.fake.mule = 0
        return bool(taken)

    def _promote(self) -> bool:
        this = engine.current()
        site = this.require_site()
        if site.store.next_due() is None:
            return False
        site.promote(9e9, this.server.send_to_mule)
        return True

    def rows(self, tag: str) -> list[Row]:
        """Return what the tasks of a tag noted."""
        return [row for row in self._ledger if row["tag"] == tag]

    def wait_rows(self, tag: str, count: int) -> list[Row]:
        """Return the rows of a tag when there are that many: at once, for nothing waits here."""
        return self.rows(tag)

    def letter(self, ident: str) -> dict[str, Any] | None:
        """Return the dead letter of an id."""
        found = engine.current().require_site().letters.read(ident)
        return None if found is None else found._asdict()

    def id_of(self, handle: Any) -> str:
        """Return the id of a handle."""
        return str(handle.id)

    def close(self) -> None:
        """Forget the application."""
        del sys.modules[NAME]


class RealWorld:
    """A real uWSGI with a spooler and a mule."""

    def __init__(self) -> None:
        self.server = UwsgiServer(SOURCE, "mule = true")
        try:
            self.server.start()
        except BaseException:
            self.server.close()
            raise

    def call(self, task: str, *args: Any, options: Options, **kwargs: Any) -> Any:
        """Submit a call; return its handle, ``None`` where RUNTIME raised."""
        code = f"swallow(lambda: {task}.options(**options)(*args, **kwargs))"
        return self.server.eval(code, args=args, kwargs=kwargs, options=options)

    def refusal(self, task: str, code: str, options: Options) -> tuple[str, str]:
        """Call with an expression as argument; return the class and text of what it raised."""
        try:
            self.server.eval(f"{task}.options(**options)({code})", options=options)
        except RemoteError as error:
            return error.kind, error.message
        raise AssertionError("it was taken")

    def settle(self, handle: Any, tag: str) -> None:
        """Wait until nothing of a call waits or runs.

        A mule works its queue off in order and retries on the spot: what is sent after the call is
        run after all of it. A step that a mule's task sends on is found by asking again.
        """
        if handle is None or handle["executor"] == "RUNTIME":
            return
        if handle["executor"] == "SPOOLER":
            wait_until(lambda: self.server.status(handle) in finding.FINAL)
            self.server.wait_empty()
            return
        seen = -1
        while seen != (seen := len(self.rows(tag))):
            self.call("marker", f"marker {tag} {seen}", options={"executor": "mule"})
            self.server.ledger.wait("ran", tag=f"marker {tag} {seen}")

    def rows(self, tag: str) -> list[Row]:
        """Return what the tasks of a tag noted."""
        return self.server.ledger.rows("ran", tag=tag)

    def wait_rows(self, tag: str, count: int) -> list[Row]:
        """Return the rows of a tag when there are that many."""
        return self.server.ledger.wait("ran", tag=tag, count=count)

    def letter(self, ident: str) -> dict[str, Any] | None:
        """Return the dead letter of an id."""
        return self.server.letters().get(ident)

    def id_of(self, handle: Any) -> str:
        """Return the id of a handle."""
        return str(handle["id"])

    def close(self) -> None:
        """End the server."""
        self.server.close()
