"""A real uWSGI in a directory of its own, for the live tests.

    server = UwsgiServer(APP, "mule = true")
    server.start()
    server.eval("greet('a')")                  # in the worker, in the application's module
    server.ledger.wait_one("greeted", who="a")
    server.stop()                              # and nothing is left running

The application's source follows ``HEADER``. In an ini line ``{dir}`` and ``{spool}`` are filled in.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import processes
from .ledger import Ledger, wait_until

HEADER = "from app_base import HANDLES, application, note, place, wait_for_file\n"
START_S = 20.0
STOP_S = 10.0
ACTIVE: list[UwsgiServer] = []

_SUPPORT = Path(__file__).parent
_SPAWNED = re.compile(
    r"spawned uWSGI (?P<kind>worker|mule) (?P<number>\d+) \((?:new )?pid: (?P<pid>\d+)"
    r"|spawned the uWSGI (?P<spooler>spooler) on dir (?P<dir>\S+) with pid (?P<spid>\d+)",
    re.IGNORECASE,
)
_RELOADING = "...gracefully killing workers..."
_MASTER = re.compile(r"spawned uWSGI master process")


class RemoteError(Exception):
    """What an evaluated expression raised, told by the server.

    Attributes:
        kinds: Names of the exception's classes, its own first.
        message: Its text.
    """

    def __init__(self, kinds: list[str], message: str, trace: str) -> None:
        super().__init__(f"{kinds[0]}: {message}\n{trace}")
        self.kinds = kinds
        self.message = message

    @property
    def kind(self) -> str:
        """The name of the exception's class."""
        return self.kinds[0]


class UwsgiServer:
    """One instance of uWSGI, with what it needs.

    Args:
        source: The application's module, after ``HEADER``.
        lines: Lines of ``uwsgi.ini`` beside the usual ones.
        spooler: Give it a spooler on ``{spool}``.
        master: Give it a master.
        module: The module that uWSGI loads; empty for none.
        http: Serve HTTP; without it ``ready`` is waited for in the log.
        ready: Regular expression to wait for in the log, besides an answer over HTTP.
        binary_path: Name the Python of the virtual environment, so that reloads work.
        env: More variables of the environment.
        files: More files of the directory: name → content.
        owner: Uid and gid that own the directory, for servers that drop their privileges.
    """

    def __init__(
        self,
        source: str,
        *lines: str,
        spooler: bool = True,
        master: bool = True,
        module: str = "app",
        http: bool = True,
        ready: str = "",
        binary_path: bool = True,
        env: dict[str, str] | None = None,
        files: dict[str, str] | None = None,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="uwsgi-live-"))
        self.dir.chmod(0o755)
        self.spool = self.dir / "spool"
        self.home = self.spool / ".uwsgi_tasks"
        self.log_path = self.dir / "uwsgi.log"
        self.ledger = Ledger(self.dir / "ledger", self.explain)
        self.process: subprocess.Popen[bytes] | None = None
        self._http, self._ready = http, ready
        self._env = env or {}
        self.write("app.py", HEADER + source)
        for name, content in (files or {}).items():
            self.write(name, content)
        usual = ["pythonpath = {dir}"] + [f"module = {module}"] * bool(module)
        usual += ["master = true"] * master + ["spooler = {spool}"] * spooler
        usual += ["http-socket = {dir}/http.sock", "need-app = true"] * http
        usual += [f"binary-path = {sys.executable}"] * binary_path
        self.write("uwsgi.ini", "[uwsgi]\n" + "\n".join(self._fill(usual, lines)) + "\n")
        self.log_path.touch()
        if owner:
            for path in (self.dir, *self.dir.rglob("*")):
                os.chown(path, *owner)

    def _fill(self, usual: list[str], lines: tuple[str, ...]) -> list[str]:
        given = {line.partition("=")[0].strip() for line in lines}
        kept = [line for line in usual if line.partition("=")[0].strip() not in given]
        both = [*kept, *lines]
        return [x.replace("{dir}", str(self.dir)).replace("{spool}", str(self.spool)) for x in both]

    def write(self, name: str, content: str) -> Path:
        """Write a file into the directory."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def touch(self, name: str) -> None:
        """Let go what waits for that file."""
        self.write(name, "")

    # life

    def start(self, *, wait: bool = True) -> UwsgiServer:
        """Start it, and wait until it answers."""
        library = importlib.util.find_spec("uwsgi_tasks")
        assert library is not None
        assert library.submodule_search_locations
        package = Path(next(iter(library.submodule_search_locations)))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("UWSGI", "COV", "PYTEST"))}
        env["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(_SUPPORT)])
        env.update(TEST_LEDGER=str(self.ledger.path), TEST_DIR=str(self.dir), TMPDIR=str(self.dir))
        env.update(self._env)
        binary = Path(sys.executable).with_name("uwsgi")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(binary), "--ini", str(self.dir / "uwsgi.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env=env,
                start_new_session=True,
            )
        if self not in ACTIVE:
            ACTIVE.append(self)
        if wait:
            self._wait_until_up()
        return self

    def _wait_until_up(self, masters: int = 0) -> None:
        def is_up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"uWSGI ended: {self.process.returncode}\n{self.explain()}")
            log = self.log()
            if not re.search(self._ready, log) or len(_MASTER.findall(log)) < masters:
                return False
            return not self._http or self._answers()

        try:
            wait_until(is_up, START_S, "the server is up")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None

    def _answers(self) -> bool:
        try:
            return bool(self._request("GET", "/ping", timeout=START_S))
        except (OSError, http.client.HTTPException):
            return False

    @property
    def master(self) -> int:
        """The pid of the master, which is also the number of the session."""
        assert self.process is not None
        return self.process.pid

    def reload(self) -> None:
        """Reload it as an operator does, and wait until it is up again."""
        before, told = len(_MASTER.findall(self.log())), self.log().count(_RELOADING)
        while self.log().count(_RELOADING) == told:  # one that has just forked misses the signal
            os.kill(self.master, signal.SIGHUP)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: self.log().count(_RELOADING) > told, timeout=1.0)
        self._wait_until_up(before + 1)

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it through its master.

        Raises:
            AssertionError: A process of it was left.
        """
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            self.process.wait(STOP_S)
            left = self._survivors()
        except subprocess.TimeoutExpired:
            left = self.all_pids()
        shown = "\n".join(f"{pid} {processes.command(pid)}" for pid in left)
        self.kill_everything()
        if left:
            raise AssertionError(f"left running after the stop:\n{shown}\n{self.explain()}")

    def _survivors(self) -> list[int]:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.all_pids(), timeout=1.0)
        return self.all_pids()

    def kill_everything(self) -> None:
        """Kill every process of it at once, as a power cut would."""
        if self.process is None:
            return
        for pid in self.all_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        wait_until(lambda: not self.all_pids(), what="the killed processes are gone")
        self.process = None

    def restart(self) -> None:
        """Stop it and start it again on the same directory."""
        self.stop()
        self.start_again()

    def start_again(self) -> None:
        """Start it on the directory of its past life, with a log of its own."""
        self.log_path.rename(self.log_path.with_suffix(f".{len(self.past_logs())}"))
        self.start()

    def past_logs(self) -> list[Path]:
        """Return the logs of its past lives."""
        return sorted(self.dir.glob("uwsgi.[0-9]*"))

    def close(self) -> None:
        """Kill it, a second faster than the master's own stop, and remove its directory."""
        try:
            self.kill_everything()
        finally:
            if self in ACTIVE:
                ACTIVE.remove(self)
            shutil.rmtree(self.dir, ignore_errors=True)

    # talking to it

    def eval(self, code: str, timeout: float = 30.0, **names: Any) -> Any:
        """Evaluate an expression in the application's module, in a worker; return its value.

        A handle comes back as ``{"id": …, "executor": …}``.

        Raises:
            RemoteError: It raised.
        """
        body = json.dumps({"code": code, "names": names})
        answer = self._request("POST", "/eval", body, timeout)
        if "error" in answer:
            raise RemoteError(answer["error"], answer["message"], answer["traceback"])
        return answer["value"]

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function or task of the application with JSON arguments; see ``eval``."""
        return self.eval(f"{name}(*args, **kwargs)", args=args, kwargs=kwargs)

    def status(self, handle: dict[str, Any]) -> str:
        """Return the status of a handle that ``eval`` or ``call`` gave."""
        return str(self.eval("HANDLES[id].status()", id=handle["id"]))

    def wait_status(self, handle: dict[str, Any], status: str, timeout: float = 10.0) -> None:
        """Wait until a handle has that status."""
        wait_until(lambda: self.status(handle) == status, timeout, f"status {status}")

    def _request(self, method: str, path: str, body: str = "", timeout: float = 30.0) -> Any:
        connection = _UnixConnection(str(self.dir / "http.sock"), timeout)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    # looking at it

    def log(self) -> str:
        """Return what it logged in this life."""
        return self.log_path.read_text(errors="replace")

    def wait_log(self, pattern: str, timeout: float = 10.0) -> str:
        """Wait for something in the log; return the line."""
        expression = re.compile(f"^.*(?:{pattern}).*$", re.MULTILINE)
        try:
            found = wait_until(lambda: expression.search(self.log()), timeout, f"log: {pattern}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None
        return str(found.group(0))

    def explain(self) -> str:
        """Return the end of the log, for a failure."""
        return f"Log of {self.dir} (end):\n{self.log()[-6000:]}"

    def all_pids(self) -> list[int]:
        """Return every living process of it, children of tasks included."""
        return processes.of_session(self.master) if self.process else []

    def pids(self, kind: str, where: Path | str | None = None) -> list[int]:
        """Return the living processes of a kind: ``worker``, ``mule`` or ``spooler``.

        Args:
            kind: What is wanted.
            where: The spool directory, for spoolers of that one only.
        """
        found = []
        for match in _SPAWNED.finditer(self.log()):
            if match["spooler"]:
                pid, this = int(match["spid"]), "spooler"
                if where and Path(match["dir"]) != Path(where).resolve():
                    continue
            else:
                pid, this = int(match["pid"]), match["kind"].lower()
            if this == kind and processes.is_alive(pid) and processes.parent(pid) == self.master:
                found.append(pid)
        return found

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Send a signal to one of its processes."""
        assert pid in self.all_pids(), f"{pid} is no process of this server"
        os.kill(pid, sig)

    def freeze(self) -> None:
        """Stop the spoolers where they are, but not while others wait for a lock of theirs."""
        for pid in self.pids("spooler"):
            self._freeze_one(pid)

    def _freeze_one(self, pid: int) -> None:
        files = [self.home / "store.db", self.home / "store.db-shm"]
        while not processes.is_stopped(pid):
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: processes.is_stopped(pid), what="it stands still")
            if processes.holds_a_write_lock(pid, *files):
                os.kill(pid, signal.SIGCONT)
                wait_until(lambda: not processes.holds_a_write_lock(pid, *files))

    def thaw(self) -> None:
        """Let the spoolers go on, and look into the spool."""
        for pid in self.pids("spooler"):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGUSR1)

    def spool_files(self, where: Path | None = None) -> list[Path]:
        """Return the tasks that lie in a spool directory."""
        return sorted((where or self.spool).glob("uwsgi_spoolfile_on_*"))

    def wait_empty(self, timeout: float = 10.0, where: Path | None = None) -> None:
        """Wait until no task lies in a spool directory: what ran there is finished."""
        wait_until(lambda: not self.spool_files(where), timeout, "the spool is empty")

    def letters(self) -> dict[str, dict[str, Any]]:
        """Return the dead letters by id, as they lie in the home."""
        return {path.stem: json.loads(path.read_text()) for path in self.home.glob("dead/*.json")}

    def wait_letter(self, ident: str = "", timeout: float = 10.0) -> dict[str, Any]:
        """Wait for a dead letter: that of an id, or the first."""

        def found() -> Any:
            letters = self.letters()
            return letters.get(ident) if ident else next(iter(letters.values()), None)

        try:
            letter: dict[str, Any] = wait_until(found, timeout, f"a dead letter {ident}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain()}") from None
        return letter


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the server's directory: no port that somebody else may take."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
