"""Examples as servers: copied, started with their own uwsgi.ini, and asked as a browser would."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlencode

from tests.support.ledger import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"


class Browser(http.client.HTTPConnection):
    """A connection to a server's socket in the file system."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(server, path):
    """Ask for a page; return its text."""
    return _ask(server, "GET", path)


def post(server, path, **form):
    """Send a form; return the JSON that comes back."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return json.loads(_ask(server, "POST", path, urlencode(form), headers))


def _ask(server, method, path, body="", headers=None):
    with contextlib.closing(Browser(server.dir / "web.sock")) as browser:
        browser.request(method, path, body, headers or {})
        response = browser.getresponse()
        text = response.read().decode()
    assert response.status == 200, f"{response.status} {text}"
    return text


def ini_lines(example):
    """Return the lines of an example's uwsgi.ini, for a server in a directory of its own."""
    text = (EXAMPLES / example / "uwsgi.ini").read_text().replace("%d", "{dir}/")
    lines = [line for line in text.splitlines() if line and line[0] not in ";["]
    return ["http-socket = {dir}/web.sock" if "http-socket" in x else x for x in lines]


def serve(uwsgi, example, *lines, env=None, started=True):
    """Start a copy of an example."""
    server = uwsgi(
        "",
        *(lines or ini_lines(example)),
        http=False,
        ready="spawned uWSGI worker",
        env={"VIRTUAL_ENV": sys.prefix, **(env or {})},
        started=False,
    )
    ignored = shutil.ignore_patterns("uwsgi.ini", "__pycache__", "spool*", "*.sqlite3")
    shutil.copytree(EXAMPLES / example, server.dir, ignore=ignored, dirs_exist_ok=True)
    return start(server) if started else server


def start(server):
    """Start a server, and wait until it answers."""
    server.start()
    wait_up(server)
    return server


def wait_up(server):
    """Wait until a worker answered a request; before that a reload may hang on it."""

    def up():
        with (
            contextlib.suppress(OSError),
            contextlib.closing(Browser(server.dir / "web.sock")) as b,
        ):
            b.request("GET", "/")
            return b.getresponse().read() is not None

    wait_until(up, 20.0, "a worker answers")
