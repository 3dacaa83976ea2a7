"""Make the spool files of release 0.7.3 that the compatibility tests read.

The suite needs no network, so what this makes is committed (`data/*.spool`); run it again only
to add a case::

    python -m venv /tmp/old && /tmp/old/bin/pip install uwsgi-tasks==0.7.3 six pyuwsgi
    python tests/compat/make_old_files.py /tmp/old/bin

It runs a tiny app with the old release on a real uWSGI, lets the spooler run one task that
retries (for the file of a second attempt), stops the spooler process with SIGSTOP, calls the
other tasks and copies each file that appears. Larger cases are made in the tests by padding.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).with_name("data")

# The tests have a module of the same name, with the same functions, under the new release.
APP = """
import datetime
import uwsgi
from uwsgi_tasks import (task, TaskExecutor, SPOOL_OK, SPOOL_RETRY, RetryTaskException,
                         get_current_task, set_uwsgi_callbacks)

set_uwsgi_callbacks()
SPOOLER = TaskExecutor.SPOOLER

@task(executor=SPOOLER)
def plain(*args, **kwargs):
    pass

@task
def bare(*args, **kwargs):
    pass

@task(executor=SPOOLER, working_dir=None)
def no_working_dir(*args, **kwargs):
    pass

@task(executor=SPOOLER, retry_count=3, retry_timeout=5)
def retried(*args, **kwargs):
    return SPOOL_RETRY

@task(executor=SPOOLER, retry_count=3, retry_timeout=datetime.timedelta(minutes=2))
def retried_delta(*args, **kwargs):
    return SPOOL_RETRY

@task(executor=SPOOLER, at=datetime.timedelta(days=36500))
def at_delta(*args, **kwargs):
    pass

@task(executor=SPOOLER, at=4000000000)
def at_stamp(*args, **kwargs):
    pass

@task(executor=SPOOLER, at=datetime.datetime(2100, 1, 2, 3, 4, 5))
def at_datetime(*args, **kwargs):
    pass

@task(executor=SPOOLER, spooler_return=True)
def returns_code(*args, **kwargs):
    return SPOOL_OK

@task(executor=SPOOLER, priority="7")
def prioritised(*args, **kwargs):
    pass

@task(executor=SPOOLER, retry_count=5, retry_timeout=3000000000)
def mid_retry(*args, **kwargs):
    current = get_current_task()
    current.buffer["seen"] = ["first"]
    current.buffer["when"] = datetime.datetime(2024, 2, 29, 12, 0)
    return SPOOL_RETRY

@task(executor=SPOOLER, retry_count=5)
def mid_retry_raised(*args, **kwargs):
    get_current_task().buffer["n"] = 1
    raise RetryTaskException(timeout=3000000000)

@task(executor=SPOOLER)
def chained(*args, **kwargs):
    current = get_current_task()
    current.buffer["steps"] = 1
    current.at = datetime.timedelta(days=36500)
    return current("second", step=2)

CALLS = {
    "plain": lambda: plain("one", 2, 3.5, None),
    "plain_empty": lambda: plain(),
    "kwargs": lambda: plain("one", flag=True, when=datetime.date(2024, 2, 29)),
    "bytes": lambda: plain(b"\\x00\\xff", "\\u00e9"),
    "bare": lambda: bare(1),
    "no_working_dir": lambda: no_working_dir(1),
    "retried": lambda: retried("a", b=1),
    "retried_delta": lambda: retried_delta("a"),
    "at_delta": lambda: at_delta("late"),
    "at_stamp": lambda: at_stamp("late"),
    "at_datetime": lambda: at_datetime("late"),
    "returns_code": lambda: returns_code("a"),
    "priority": lambda: prioritised("a"),
    "mid_retry": lambda: mid_retry("a", b=2),
    "mid_retry_raised": lambda: mid_retry_raised("a"),
    "chained": lambda: chained("first"),
    "large": lambda: plain("x" * 200000),
}

def application(environ, start_response):
    path = environ["PATH_INFO"].strip("/")
    answer = b""
    if path == "pid":
        answer = str(uwsgi.spooler_pid()).encode()
    else:
        answer = repr(CALLS[path]()).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""

# These are run once by the old spooler; the file it leaves behind is the sample.
RUN_ONCE = ("mid_retry", "mid_retry_raised", "chained")
# Nothing of this size is committed; made only to look at.
TOO_BIG = ("large",)


def main(bin_dir: Path) -> None:
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = folder / "spool"
        (folder / "old_tasks.py").write_text(APP)
        port = free_port()
        log = (folder / "log").open("wb")
        server = subprocess.Popen(
            [
                *(bin_dir / "uwsgi", "--master", "--http-socket", f"127.0.0.1:{port}"),
                *("--pythonpath", folder, "--module", "old_tasks", "--need-app"),
                *("--spooler", spool, "--spooler-frequency", "1", "--spooler-ordered"),
                *("--chdir", "/tmp", "--die-on-term", "--binary-path", bin_dir / "python"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            make_all(port, spool)
        except BaseException:
            print((folder / "log").read_text())
            raise
        finally:
            server.kill()
            server.wait()


def make_all(port: int, spool: Path) -> None:
    pid = int(wait_for(lambda: get(port, "pid")))
    for case in RUN_ONCE:
        before = files(spool)
        get(port, case)
        left = wait_for(lambda before=before: in_the_future(files(spool) - before))
        keep(case, left)
    os.kill(pid, signal.SIGSTOP)
    try:
        cases = [line.split('"')[1] for line in APP.splitlines() if '": lambda:' in line]
        for case in cases:
            if case not in RUN_ONCE:
                before = files(spool)
                get(port, case)
                keep(case, (files(spool) - before).pop())
    finally:
        os.kill(pid, signal.SIGKILL)


def keep(case: str, file: Path) -> None:
    where = Path(tempfile.gettempdir()) if case in TOO_BIG else DATA
    shutil.copyfile(file, where / f"{case}.spool")
    print(f"{case}: {file.stat().st_size} bytes, due {file.stat().st_mtime:.0f}")


def files(spool: Path) -> set[Path]:
    return {path for path in spool.rglob("uwsgi_spoolfile_on_*") if path.is_file()}


def in_the_future(found: set[Path]) -> Path | None:
    return next((path for path in found if path.stat().st_mtime > time.time() + 3600), None)


def wait_for(probe):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if answer := probe():
                return answer
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/{path}")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    return body


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
