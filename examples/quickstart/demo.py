"""Show what uwsgi-tasks does, on a real uWSGI and with one command.

Starts an SMTP post office and a uWSGI with spoolers and a mule, all on 127.0.0.1, and prints the
address of a page with buttons. Ctrl-C lets the tasks that are running finish, then stops.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
START_S = 20.0
STOP_S = 10.0
LOCK = "demo.lock"
PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    options = parse(arguments)
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    wishes = StopWishes()
    with fresh_state(options.state) as state:
        shop = Shop(state, options.port)
        try:
            shop.start(wishes)
            shop.introduce()
            if options.once:
                return play(shop, wishes, options.grace)
            return shop.serve(wishes, options.grace)
        finally:
            shop.end()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--once",
        action="store_true",
        default=os.environ.get("CI", "").lower() in ("1", "true", "yes"),
        help="play every story without a browser, print what ran, and stop; the exit status is 0"
        " if all stories went as told (this is the default where CI=true)",
    )
    parser.add_argument(
        "--port",
        type=int,
        help="port of the page; 0 for any free one (default: 8000, or a free one if it is taken)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long running tasks may take to finish at the end (default: 30)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=CHECKOUT / ".demo",
        metavar="DIRECTORY",
        help="where spool, mail and log go; emptied at each start (default: .demo in the checkout)",
    )
    return parser.parse_args(arguments)


def fail(message: str) -> NoReturn:
    """End with a message and status 2."""
    print(f"demo: {message}", file=sys.stderr)
    raise SystemExit(2)


class Stopped(Exception):
    """Somebody pressed Ctrl-C while the stories were being played."""


class StopWishes:
    """How often somebody asked to stop: Ctrl-C, SIGTERM, or a terminal that was closed."""

    def __init__(self) -> None:
        self.count = 0
        self._news = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.count += 1
        self._news.set()

    def pause(self, seconds: float) -> None:
        """Wait a little, less if somebody asks to stop."""
        self._news.wait(seconds)
        self._news.clear()


@contextlib.contextmanager
def fresh_state(folder: Path) -> Iterator[Path]:
    """Make the state directory anew and keep it for this demo alone.

    Only a directory that an earlier demo made is emptied: it holds the demo's lock.
    """
    if folder.is_symlink():
        fail(f"{folder} is a link; give --state a directory of its own")
    if folder.exists() and not (folder / LOCK).is_file() and any(folder.iterdir()):
        fail(f"{folder} wasn't made by this demo, so it isn't emptied; give another --state")
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with open(folder / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fail(f"another demo uses {folder}; stop it, or give another --state")
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
        yield folder


class Shop:
    """The demo's servers: the post office in this process, and uWSGI in processes of its own.

    uWSGI's master kills its spoolers at once, whatever signal it is stopped with. So this parent
    asks the library to take no more tasks, waits for those that run, and only then stops it.

    Args:
        state: The state directory.
        port: Port of the page; `None` for the usual one.
    """

    def __init__(self, state: Path, port: int | None) -> None:
        from postbox import Postbox

        self.state = state
        self.log = state / "server.log"
        self.port = choose_port(port)
        self.url = f"http://127.0.0.1:{self.port}/"
        self._postbox = Postbox(state / "mailbox")
        self._uwsgi: subprocess.Popen[bytes] | None = None

    def start(self, wishes: StopWishes) -> None:
        """Start both, and wait until the page answers."""
        with open(self.log, "wb") as log:
            self._uwsgi = self._spawn(log)
        self._postbox.start()  # after the fork: it has a thread
        (self.state / "server.pid").write_text(f"{self._uwsgi.pid}\n")
        deadline = time.monotonic() + START_S
        while not self._answers():
            if wishes.count:
                raise SystemExit(130)
            if not self.is_running or time.monotonic() > deadline:
                fail(f"uWSGI didn't start. The end of {self.log}:\n{self.end_of_log()}")
            wishes.pause(0.05)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("UWSGI_", "UWSGITASKS_"))  # settings of somebody's own server
        }
        environment["DEMO_STATE"] = str(self.state)
        environment["DEMO_PORT"] = str(self.port)
        environment["DEMO_PYTHON"] = sys.executable
        environment["DEMO_SMTP"] = self._postbox.address
        return subprocess.Popen(
            [find_uwsgi(), "--ini", str(HERE / "uwsgi.ini")],
            cwd=self.state,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C comes to this parent only
            preexec_fn=end_with_parent(),
        )

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except OSError:
            return False
        return True

    @property
    def is_running(self) -> bool:
        """Tell whether uWSGI's master is there."""
        return self._uwsgi is not None and self._uwsgi.poll() is None

    def end_of_log(self) -> str:
        """Return the last lines of uWSGI's log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-25:])

    def introduce(self) -> None:
        """Say where things are."""
        shown = os.path.relpath(self.state)
        shown = shown if len(shown) < len(str(self.state)) else str(self.state)
        print(f"\n  The page     {self.url}")
        print(f"  The queue    ls {shown}/spool")
        print(f"  The log      tail -f {shown}/server.log\n")

    def serve(self, wishes: StopWishes, grace: float) -> int:
        """Wait until somebody wants to stop, then stop; return the exit status."""
        print("Open the page and press a button. Ctrl-C lets running tasks finish, then stops.")
        while not wishes.count and self.is_running:
            wishes.pause(0.5)
        if not self.is_running:
            print(f"uWSGI ended by itself. The end of its log:\n{self.end_of_log()}")
            return 1
        return 0 if self.drain(wishes, grace) else 1

    def drain(self, wishes: StopWishes, grace: float) -> bool:
        """Take no more tasks, and wait for those that run.

        Returns:
            False if some had to be left unfinished: time was up, or Ctrl-C came once more.
        """
        import uwsgi_tasks
        from uwsgi_tasks import control

        uwsgi_tasks.configure(home=str(self.state / "spool" / ".uwsgi_tasks"))
        control.pause()
        asked, deadline, told = wishes.count, time.monotonic() + grace, False
        while self.is_running and (busy := control.busy()):
            if not told:
                print(f"\nWaiting for {busy} running task{'s'[: busy > 1]} to finish", end="")
                print(f", at most {grace:g} s. Ctrl-C once more stops at once.")
                told = True
            if time.monotonic() > deadline or wishes.count > asked:
                print("Stopping before they finished: what the spool holds would run again.")
                return False
            wishes.pause(0.05)
        print("Nothing is running any more." if told else "\nNothing was running.")
        return True

    def end(self) -> None:
        """Stop both servers, and see to it that no process is left."""
        if self._uwsgi is not None:
            group = self._uwsgi.pid
            if self.is_running:
                self._uwsgi.send_signal(signal.SIGINT)  # stops; SIGQUIT would reload: die-on-term
            if not wait_until(lambda: not self.is_running and not is_group_alive(group), STOP_S):
                print(f"uWSGI didn't stop within {STOP_S:g} s, and is killed.")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._uwsgi.wait()
        self._postbox.stop()
        print("Stopped.")


def play(shop: Shop, wishes: StopWishes, grace: float) -> int:
    """Play all stories, print what ran, stop; return the exit status."""
    from walkthrough import Walkthrough

    def pause(seconds: float) -> None:
        wishes.pause(seconds)
        if wishes.count:
            raise Stopped
        if not shop.is_running:
            fail(f"uWSGI ended by itself. The end of its log:\n{shop.end_of_log()}")

    try:
        went_well = Walkthrough(shop.url, shop.state, pause).play()
    except Stopped:
        print("\nStopped before all stories were played.")
        shop.drain(wishes, grace)
        return 130
    return 0 if shop.drain(wishes, grace) and went_well else 1


def choose_port(wanted: int | None) -> int:
    """Return a port that is free: the wanted one, or the usual one, or any."""
    for port in (8000, 0) if wanted is None else (wanted,):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                free: int = probe.getsockname()[1]
                return free
        except OSError:
            continue
    fail(f"port {wanted} is taken; --port 0 takes any free one")


def find_uwsgi() -> str:
    """Return the uWSGI that belongs to this Python, or else the one on the path."""
    beside = Path(sys.executable).parent / "uwsgi"
    found = str(beside) if beside.exists() else shutil.which("uwsgi")
    if found is None:
        fail("there is no uwsgi here; `make demo` installs one, or run `pip install pyuwsgi`")
    return found


def end_with_parent() -> Callable[[], None] | None:
    """Return what makes a child end when this process is killed, where the system can do it.

    SIGKILL for uWSGI's master is the gentlest there is: workers and mules end with it, and a
    spooler finishes the task in hand before it leaves.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) and None


def is_group_alive(group: int) -> bool:
    """Tell whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


if __name__ == "__main__":
    try:
        import aiosmtpd  # noqa: F401

        import uwsgi_tasks  # noqa: F401
    except ImportError as error:
        fail(f"{error.name} isn't installed for {sys.executable}; run `make demo` in the checkout")
    raise SystemExit(main())
