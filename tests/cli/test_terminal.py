"""What moves on a screen, in a real terminal."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import uuid

import pytest

from tests.support.cli import PROGRAM, environment, run_command
from tests.support.ledger import wait_until

from .test_up import APP

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux isn't installed")


@pytest.fixture(scope="module")
def server(module_uwsgi):
    return module_uwsgi(APP)


class Terminal:
    """A terminal of 120 columns and 20 lines, with one command in it."""

    def __init__(self, *words: str) -> None:
        self._name = f"uwsgi-tasks-{uuid.uuid4().hex[:8]}"
        line = f"{shlex.join([PROGRAM, *words])}; echo ended with $?; sleep 60"
        self._tmux("new-session", "-d", "-x", "120", "-y", "20", line)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, "-f", "/dev/null", *words],
            env={**environment(), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
        )
        return done.stdout

    def screen(self) -> str:
        """Return what is seen."""
        return self._tmux("capture-pane", "-p")

    def press(self, key: str) -> None:
        """Press a key."""
        self._tmux("send-keys", key)

    def wait(self, text: str) -> str:
        """Wait until a text is seen; return the screen."""
        wait_until(lambda: text in self.screen(), 15, f"{text!r} on the screen")
        return self.screen()

    def close(self) -> None:
        """End it."""
        self._tmux("kill-server")


@pytest.fixture
def terminal(server):
    """Open terminals with a command on the home of the server."""
    opened = []

    def open_one(*words):
        opened.append(Terminal("--home", str(server.home), *words))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def call(server, *words):
    return run_command("--home", server.home, "call", *words).out.strip()


def test_given_top_when_a_task_begins_and_ends_then_the_screen_follows(server, terminal):
    screen = terminal("top", "--interval", "0.2")
    screen.wait("server up")
    ident = call(server, "app.slow", "--args", "[20]")
    shown = screen.wait("running   app.slow")
    assert ident in shown
    screen.wait("of 20")
    shown = screen.wait("ok        app.slow")
    assert shown.count("STATE") == 1  # it is drawn in its place
    screen.press("C-c")
    screen.wait("ended with 0")


def test_given_watch_when_a_task_goes_on_then_one_line_shows_its_bar_to_the_end(server, terminal):
    ident = call(server, "app.slow", "--args", "[20]")
    screen = terminal("watch", ident, "--interval", "0.1")
    assert " left  row" in screen.wait("of 20")
    shown = screen.wait("ended with 0")
    assert shown.count("[###") == 1
    assert "ok  [##############################] 100 %  20 of 20" in shown


def test_given_a_terminal_when_listed_then_rich_draws_a_table(server, terminal):
    pytest.importorskip("rich")
    call(server, "app.add", "--args", "[1, 2]", "--wait")
    shown = terminal("list", "--limit", "3").wait("ended with 0")
    assert "───" in shown
    assert "app.add" in shown


def test_given_a_terminal_when_a_purge_asks_then_an_answer_is_taken(server, terminal):
    ident = call(server, "app.add", "--args", "[1, 2]", "--delay", "1h")
    screen = terminal("purge", "--state", "scheduled")
    screen.wait("Remove 1 task (scheduled) for good?")
    screen.press("y")
    screen.press("Enter")
    screen.wait("1 task removed")
    assert run_command("--home", server.home, "show", ident, "--json").json["state"] == "cancelled"
