"""Ours beside raw uWSGI, in one run: calls, runs, latency, import. ``python -m benchmarks.quick``.

Two servers run on the same kind of directory: one with uwsgi_tasks, one with the least code that
does the same on raw uWSGI. Rounds are interleaved; each figure is the median of the rounds, with
the least and the greatest. Every call has to run exactly once, or the benchmark fails; no figure
ever makes it fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

import uwsgi_tasks

HERE = Path(__file__).parent
CALLS, LATENCIES, DRAINED = 400, 60, 3000
MULE_BATCH = 40
"""A mule's queue holds some two hundred small messages; ours would then go to the spooler."""
CHUNKS, CHUNK = 40, 50
RECORDS = "handler, of that: the records"
PUT_BACK = "handler, of that: putting back"
LAST_ROUND_S = 75.0
"""After that many seconds no round begins, so that a busy machine is done in two minutes too."""
TRACED = 100
WEB_WORKER = (
    "wsgiref.simple_server logging json typing dataclasses inspect datetime decimal tempfile"
    " hashlib uuid traceback pickle"
)
IMPORT = f"""
import importlib, time
for name in {WEB_WORKER.split()!r}:
    importlib.import_module(name)
started = time.perf_counter()
import uwsgi_tasks
print(time.perf_counter() - started)
"""

ROWS = {
    "call, spooler stopped": ("µs", "one call while nobody takes tasks"),
    "call, spooler running": ("µs", "one call while the spooler works"),
    "call, mule stopped": ("µs", "one call while nobody takes messages"),
    "call, mule running": ("µs", "one call while the mule works"),
    "handler of a no-op": ("µs", "CPU of one run in Python, in the quietest moment"),
    "a run, 1 spooler": ("µs", "CPU of the spooler's process, uWSGI's own part included"),
    "drain, 1 spooler": ("tasks/s", f"{DRAINED} no-op tasks that lay there; more is better"),
    "latency, spooler idle": ("ms", "from the call to the function"),
    "latency, mule idle": ("ms", "from the call to the function"),
}


class Side:
    """One of the two servers, and the slots of its calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server = UwsgiServer(
            (HERE / f"app_{name}.py").read_text(),
            "mule = true",
            "disable-logging = true",
            files={"bench_app.py": (HERE / "bench_app.py").read_text()},
        )
        self.used = 0
        self.samples: dict[str, list[float]] = {}

    def start(self) -> None:
        """Start it, and warm it up."""
        self.server.start()
        kinds = ("worker", "spooler", "mule")
        wait_until(lambda: all(self.server.pids(kind) for kind in kinds), what="its processes")
        self.pids = {kind: self.server.pids(kind)[0] for kind in kinds}
        for kind in ("spool", "mule"):
            first = self.slots(20)
            self.server.eval(f"timed({kind}, items({first}, 20))")
            self.finish(first, 20)

    def slots(self, number: int) -> int:
        """Return the first of that many unused slots."""
        self.used += number
        return self.used - number

    def finish(self, first: int, number: int) -> None:
        """Wait until the slots have run, and check that each did once."""
        self.server.eval(f"wait({first}, {number})", timeout=90)
        wrong = self.server.eval(f"wrong({first}, {number})")
        if wrong:
            raise SystemExit(f"{self.name}: {wrong} of {number} calls didn't run exactly once")

    def note(self, row: str, values: list[float]) -> None:
        """Keep the median and the 99th percentile of one round's values."""
        ordered = sorted(values)
        self.samples.setdefault(f"{row} p50", []).append(ordered[len(ordered) // 2])
        if len(ordered) > 1:
            last = min(len(ordered) - 1, int(len(ordered) * 0.99))
            self.samples.setdefault(f"{row} p99", []).append(ordered[last])

    @contextlib.contextmanager
    def stopped(self, kind: str) -> Iterator[None]:
        """Hold a process still."""
        self.server.kill(self.pids[kind], signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.kill(self.pids[kind], signal.SIGCONT)

    # what is measured

    def calls(self, row: str, how: str, kind: str, *, stop: bool, batch: int) -> None:
        """Time calls, in batches that the queue has room for."""
        took: list[float] = []
        for _ in range(CALLS // batch):
            first = self.slots(batch)
            with self.stopped(kind) if stop else contextlib.nullcontext():
                took += self.server.eval(f"timed({how}, items({first}, {batch}))")
            self.finish(first, batch)
        self.note(row, [value / 1e3 for value in took])

    def latency(self, row: str, how: str) -> None:
        """Time the way from a call to its run, one at a time."""
        first = self.slots(LATENCIES)
        took = self.server.eval(
            f"latencies({how}, items({first}, {LATENCIES}), {first})", timeout=90
        )
        self.finish(first, LATENCIES)
        self.note(row, [value / 1e6 for value in took])

    def drain(self) -> None:
        """Let one spooler run a full spool."""
        first = self.slots(DRAINED)
        with self.stopped("spooler"):
            self.server.eval(f"timed(spool, items({first}, {DRAINED})) and 0", timeout=90)
            before = _cpu_ns(self.pids["spooler"])
        self.finish(first, DRAINED)
        self.server.wait_empty()
        after = _cpu_ns(self.pids["spooler"])
        if before and after:
            self.note("a run, 1 spooler", [(after - before) / DRAINED / 1e3])
        span = self.server.eval(f"span({first}, {DRAINED})")
        self.note("drain, 1 spooler", [(DRAINED - 1) / (span / 1e9)])

    def syscalls(self, how: str, kind: str, of: str) -> dict[str, float]:
        """Return the system calls of a process per call: those of many less those of few."""
        counts = []
        for number in (TRACED, 3 * TRACED):
            counts.append(self._trace(number, how, kind, of))
        few, many = counts
        per_call = {name: (many[name] - few.get(name, 0)) / (2 * TRACED) for name in many}
        return {name: round(value, 2) for name, value in per_call.items() if value >= 0.05}

    def _trace(self, number: int, how: str, kind: str, of: str) -> dict[str, int]:
        total: dict[str, int] = {}
        batch = MULE_BATCH if kind == "mule" else number
        report = self.server.dir / "strace"
        for start in range(0, number, batch):
            size = min(batch, number - start)
            first = self.slots(size)
            if of == kind:  # the consumer: its work lies there when the trace begins
                with self.stopped(kind):
                    self.server.eval(f"timed({how}, items({first}, {size})) and 0")
                    tracer = _attach(self.pids[of], report)
                self.finish(first, size)
                if kind == "spooler":
                    self.server.wait_empty()
            else:
                with self.stopped(kind):
                    tracer = _attach(self.pids[of], report)
                    self.server.eval(f"timed({how}, items({first}, {size})) and 0")
                    _detach(tracer)
                self.finish(first, size)
            _detach(tracer)
            for name, count in _counts(report).items():
                total[name] = total.get(name, 0) + count
        return total


def measure_handlers(ours: Side, raw: Side) -> None:
    """Time both handlers in the spooler process of ours, in turns."""
    slot = ours.slots(2)
    ours.server.eval(
        f"measure_handler(spool_dir, {slot}, {slot + 1}, {CHUNKS}, {CHUNK}) and 0",
        spool_dir=str(ours.server.spool),
    )
    samples = [value / 1e3 for value in ours.server.eval("published()", timeout=90)]
    ours.server.wait_empty()
    if ours.server.eval(f"wrong({slot}, 1, {3 * CHUNKS * CHUNK + 1})"):
        raise SystemExit("the measured messages didn't run exactly once each")
    whole, without_records, nothing_put_back, bare = (min(samples[n::4]) for n in range(4))
    ours.note("handler of a no-op", [whole])
    raw.note("handler of a no-op", [bare])
    ours.note(RECORDS, [whole - without_records])
    ours.note(PUT_BACK, [whole - nothing_put_back])


def measure_round(ours: Side, raw: Side, number: int) -> None:
    """Measure everything once, the two sides in turns."""
    sides = (ours, raw) if number % 2 else (raw, ours)
    for stop in (True, False):
        state = "stopped" if stop else "running"
        for side in sides:
            side.calls(f"call, spooler {state}", "spool", "spooler", stop=stop, batch=CALLS)
        for side in sides:
            side.calls(f"call, mule {state}", "mule", "mule", stop=stop, batch=MULE_BATCH)
    for side in sides:
        side.drain()
    for side in sides:
        side.latency("latency, spooler idle", "spool")
    for side in sides:
        side.latency("latency, mule idle", "mule")
    measure_handlers(ours, raw)


def import_times(number: int) -> list[float]:
    """Return ms that the import adds to a Python that loaded what a web worker has."""
    took = []
    env = {**os.environ, "PYTHONPATH": str(Path(uwsgi_tasks.__file__).parent.parent)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as compiled:
        env["PYTHONPYCACHEPREFIX"] = compiled
        for _ in range(number + 1):
            output = subprocess.run(
                [sys.executable, "-c", IMPORT], check=True, capture_output=True, env=env
            ).stdout
            took.append(float(output) * 1e3)
    return took[1:]  # the first one compiled the modules


def _cpu_ns(pid: int) -> int:
    """Return the time that the main thread of a process ran, 0 where the kernel doesn't tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _attach(pid: int, report: Path) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(
        ["strace", "-c", "-U", "name,calls", "-o", str(report), "-p", str(pid)],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if b"attached" not in line:
        tracer.kill()
        tracer.wait()
        raise OSError(line.decode().strip())
    return tracer


def _detach(tracer: subprocess.Popen[bytes]) -> None:
    if tracer.poll() is None:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    if tracer.stderr:
        tracer.stderr.close()


def _counts(report: Path) -> dict[str, int]:
    counts = {}
    for line in report.read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit() and words[0] != "total":
            counts[words[0]] = int(words[1])
    return counts


TRACES = {
    "a call, spooler": ("spool", "spooler", "worker"),
    "a run, spooler": ("spool", "spooler", "spooler"),
    "a call, mule": ("mule", "mule", "worker"),
    "a run, mule": ("mule", "mule", "mule"),
}


def measure_syscalls(ours: Side, raw: Side) -> dict[str, dict[str, dict[str, float]]] | str:
    """Return the system calls of a call and of a run, or why they can't be counted."""
    if shutil.which("strace") is None:
        return "strace isn't here"
    try:
        return {
            title: {side.name: side.syscalls(*how) for side in (ours, raw)}
            for title, how in TRACES.items()
        }
    except OSError as error:
        return f"strace may not attach: {error}"


# where, and the report


def spool_root() -> str:
    """Return where the spools lie: in memory where that can be had."""
    memory = "/dev/shm"
    if file_system(memory) == "tmpfs" and os.access(memory, os.W_OK):
        return memory
    return tempfile.gettempdir()


def file_system(path: str) -> str:
    """Return the type of the file system of a path."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            device, mount, this = line.split()[:3]
            inside = os.path.realpath(path) == mount or os.path.realpath(path).startswith(
                mount.rstrip("/") + "/"
            )
            if inside and len(mount) >= len(best):
                best, kind = mount, this
                if this == "ext4" and not _has_journal(device):
                    kind = "ext4 without a journal: figures of files are better than elsewhere"
    return kind


def _has_journal(device: str) -> bool:
    journals = Path("/proc/fs/jbd2")
    name = os.path.basename(os.path.realpath(device))
    return journals.is_dir() and any(journals.glob(f"{name}-*"))


def shown(values: list[float]) -> str:
    """Return the median of values, with the least and the greatest."""
    middle = statistics.median(values)
    digits = 0 if middle >= 1000 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(ours: Side, raw: Side) -> Iterator[str]:
    """Yield the lines of the table of figures."""
    yield "| what | unit | ours | raw | ours ÷ raw | |"
    yield "|---|---|---|---|---|---|"
    for row, (unit, meaning) in ROWS.items():
        for part in ("p50", "p99"):
            mine, theirs = ours.samples.get(f"{row} {part}"), raw.samples.get(f"{row} {part}")
            if not mine or not theirs:
                continue
            ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            title = f"{row}, {part}" if row.startswith(("call", "latency")) else row
            note = meaning if part == "p50" else ""
            yield f"| {title} | {unit} | {shown(mine)} | {shown(theirs)} | {ratio:.2f} | {note} |"
            if row.startswith("handler"):
                added = [a - b for a, b in zip(mine, theirs, strict=True)]
                yield f"| handler, what ours adds | µs | {shown(added)} | | | |"
                yield from _parts(ours)


def _parts(ours: Side) -> Iterator[str]:
    records, put_back = (shown(ours.samples[f"{row} p50"]) for row in (RECORDS, PUT_BACK))
    yield f"| {RECORDS} | µs | {records} | | | of what is in hand, and of what is over |"
    yield f"| {PUT_BACK} | µs | {put_back} | | | what a task may have changed in its process |"


def syscall_table(found: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table of system calls."""
    yield "| system calls of | ours | raw | ours: which |"
    yield "|---|---|---|---|"
    for title, sides in found.items():
        ours, raw = sides["ours"], sides["raw"]
        which = sorted(ours.items(), key=lambda item: -item[1])
        shown = ", ".join(name if count == 1 else f"{count:g} {name}" for name, count in which)
        yield f"| {title} | {sum(ours.values()):.1f} | {sum(raw.values()):.1f} | {shown} |"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there too")
    options = parser.parse_args()
    started = time.monotonic()
    tempfile.tempdir = spool_root()
    imports = import_times(15)
    ours, raw = Side("ours"), Side("raw")
    try:
        for side in (ours, raw):
            side.start()
        rounds = 0
        while rounds < options.rounds and (not rounds or time.monotonic() - started < LAST_ROUND_S):
            measure_round(ours, raw, rounds)
            rounds += 1
        traced = measure_syscalls(ours, raw)
        for side in (ours, raw):
            wrong = side.server.letters()
            if wrong:
                raise SystemExit(f"{side.name}: tasks died: {wrong}")
    finally:
        for side in (ours, raw):
            side.server.close()
    where = file_system(tempfile.gettempdir())
    took = time.monotonic() - started
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load"
        f" {os.getloadavg()[0]:.1f}; spool on {where}; {rounds} rounds in {took:.0f} s;"
        f" median (least to greatest) of the rounds; each of {ours.used} + {raw.used} calls ran"
        f" exactly once\n"
    )
    print("\n".join(table(ours, raw)))
    print(f"| import of uwsgi_tasks | ms | {shown(imports)} | | | on top of a loaded web worker |")
    print("\n" + ("\n".join(syscall_table(traced)) if isinstance(traced, dict) else traced))
    if options.json:
        figures = {side.name: side.samples for side in (ours, raw)}
        facts = {"spool": where, "import ms": imports, "system calls": traced}
        options.json.write_text(json.dumps({**facts, **figures}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
