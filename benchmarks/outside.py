"""How long from a call in a plain Python process to the start of its task in an idle server.

    python -m benchmarks.outside            # calls, one by one, each when the one before has run

The way: a file in the spool, a byte into the FIFO of the home, the timekeeper's thread, SIGUSR1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from tests.support.server import UwsgiServer

APP = """
import os, time
from uwsgi_tasks import task

@task(working_dir=None)
def started(called):
    data = f"{time.monotonic_ns() - called}\\n".encode()
    descriptor = os.open(os.path.join(os.environ["TEST_DIR"], "pipe"), os.O_WRONLY)
    os.write(descriptor, data)
    os.close(descriptor)
"""

PRODUCER = """
import json, os, sys, time
import app
pipe = os.open(sys.argv[1], os.O_RDWR)
waits, calls = [], []
for n in range(int(sys.argv[2])):
    time.sleep(0.01)
    called = time.monotonic_ns()
    app.started(called)
    calls.append(time.monotonic_ns() - called)
    waits.append(int(os.read(pipe, 64)))
print(json.dumps([waits[20:], calls[20:]]))
"""


def measure(calls: int) -> tuple[list[int], list[int]]:
    """Return nanoseconds until the start, and nanoseconds of the call itself, of each call."""
    server = UwsgiServer(APP, "spooler-quiet = true", http=False, ready="spawned the uWSGI spooler")
    try:
        os.mkfifo(server.dir / "pipe")
        server.start()
        support = Path(__file__).parents[1] / "tests/support"
        paths = [str(server.dir), str(support), *filter(None, sys.path)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        env |= {"UWSGITASKS_HOME": str(server.home), "TEST_DIR": str(server.dir)}
        (server.dir / "producer.py").write_text(PRODUCER)
        command = [sys.executable, str(server.dir / "producer.py"), str(server.dir / "pipe")]
        done = subprocess.run(
            [*command, str(calls + 20)], env=env, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            sys.exit(done.stderr)
        waits, own = json.loads(done.stdout)
        return waits, own
    finally:
        server.close()


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    waits, own = measure(parser.parse_args().calls)
    for name, values in (("call to start", waits), ("the call itself", own)):
        shares = statistics.quantiles(values, n=100)
        print(
            f"{name:16} median {statistics.median(values) / 1e6:6.3f} ms"
            f"   p90 {shares[89] / 1e6:6.3f} ms   p99 {shares[98] / 1e6:6.3f} ms"
        )


if __name__ == "__main__":
    main()
