"""Many schedules: how fast they are submitted, and how late. ``python -m benchmarks.schedules``.

One spooler, default ini. *At once*: 1,000 schedules are due at one moment; from that moment to the
row of the last one that waits, to its file in the spool, and to its run. *Every second*: 10,000
schedules of one second, all at one moment; CPU of the spooler's process, in which the timekeeper is
a thread, firings a second, and how late they are, once with tasks that run and once with a paused
server, so that ``overlap="allow"`` submits and nothing runs. *Resting*: as many that are due
tomorrow; CPU of a server that has nothing to do.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

APP = """
import os, time
from uwsgi_tasks import pause, resume, schedules, task

@task
def tick(due=0.0):
    pass

@task
def once(due):
    now = time.time()
    descriptor = os.open(os.environ["TEST_DIR"] + "/ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"%.6f\\n" % (now - due))
    os.close(descriptor)

def fill(number, name, **options):
    from uwsgi_tasks import engine
    found = globals()[name]
    for n in range(number):
        schedules.add(found, name=f"{name}{n}", **options)

def move(where, moment):
    from uwsgi_tasks import engine
    site = engine.current().site()
    site.store.connection().execute(
        f"UPDATE schedules SET moment = ?, next_at = ? WHERE {where}", (moment, moment))
    site.home.wake_timekeeper()
"""
LEFT = "SELECT 1 FROM schedules WHERE active = 1 AND paused = 0 AND next_at <= ? LIMIT 1"


def database(server: UwsgiServer) -> sqlite3.Connection:
    return sqlite3.connect(server.home / "store.db", timeout=30, isolation_level=None)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(server: UwsgiServer, number: int, name: str, **options: object) -> float:
    """Add schedules; return the microseconds that each took."""
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    began = time.perf_counter()
    server.eval(f"fill({number}, {name!r}, {given})", timeout=300)
    return (time.perf_counter() - began) / number * 1e6


def at_once(number: int, rounds: int) -> None:
    server = UwsgiServer(APP, "disable-logging = true").start()
    try:
        wait_until(lambda: server.pids("spooler"))
        taken = fill(server, number, "once", every=86400.0, args=(0.0,), overlap="allow")
        print(f"adding one                       {taken:8.0f} µs")
        waiting, files = [], []
        for _ in range(rounds):
            server.eval("pause()")
            due = time.time() + 0.5
            server.eval(f"move('1', {due!r})")
            look = database(server)
            time.sleep(max(0.0, due - time.time()))
            while look.execute(LEFT, (due,)).fetchone():
                time.sleep(0.002)
            waiting.append((time.time() - due) * 1000)
            wait_until(lambda: len(server.spool_files()) == number, 60)
            written = max(path.stat().st_ctime for path in server.spool_files())
            files.append((written - due) * 1000)
            server.eval("resume()")
            server.wait_empty(120)
        show(f"{number} at once: submitted (rows)", waiting, "ms")
        show(f"{number} at once: in the spool", files, "ms")
    finally:
        server.close()


def show(what: str, values: list[float], unit: str) -> None:
    print(
        f"{what:32} {statistics.median(values):8.1f} {unit}"
        f"  ({min(values):.1f} to {max(values):.1f})"
    )


def every_second(number: int, seconds: float, overlap: str, paused: bool) -> None:
    server = UwsgiServer(APP, "disable-logging = true").start()
    try:
        (pid,) = wait_until(lambda: server.pids("spooler"))
        if paused:
            server.eval("pause()")
        fill(server, number, "tick", cron="@yearly", overlap=overlap)
        look = database(server)
        look.execute("UPDATE schedules SET rule = '[\"every\", 1.0]'")
        due = float(int(time.time()) + 2)
        server.eval(f"move('1', {due!r})")
        time.sleep(max(0.0, due - time.time()))
        began, used, late = time.time(), cpu_s(pid), []
        while time.time() < began + seconds:
            oldest = look.execute("SELECT min(next_at) FROM schedules").fetchone()[0]
            late.append(max(0.0, time.time() - oldest) * 1000)
            time.sleep(0.02)
        used = cpu_s(pid) - used
        fired, missed, skipped = look.execute(
            "SELECT sum(fired), sum(missed), sum(skipped) FROM schedules"
        ).fetchone()
        state = "submitted only" if paused else "run too"
        print(f"{number} of one second, overlap={overlap}, {state}:")
        print(
            f"  fired {fired / seconds:8.0f} /s, missed {missed / seconds:.0f}, skipped"
            f" {skipped / seconds:.0f} /s; CPU {used / seconds * 100:.0f} %,"
            f" {used / max(1, fired) * 1e6:.0f} µs a firing"
        )
        show("  the latest one is late by", late, "ms")
    finally:
        server.kill_everything()
        server.close()


def resting(number: int, seconds: float) -> None:
    server = UwsgiServer(APP, "disable-logging = true").start()
    try:
        (pid,) = wait_until(lambda: server.pids("spooler"))
        fill(server, number, "tick", every=86400.0)
        time.sleep(1)
        used = cpu_s(pid)
        time.sleep(seconds)
        print(f"{number} that are due tomorrow: CPU {(cpu_s(pid) - used) / seconds * 100:.2f} %")
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--number", type=int, default=10_000)
    chosen = parser.parse_args()
    print(f"In {tempfile.gettempdir()}, {os.cpu_count()} cores")
    at_once(1000, chosen.rounds)
    resting(chosen.number, chosen.seconds)
    every_second(chosen.number, chosen.seconds, "allow", paused=True)
    every_second(chosen.number, chosen.seconds, "skip", paused=False)
    every_second(1000, chosen.seconds, "skip", paused=False)


if __name__ == "__main__":
    main()
