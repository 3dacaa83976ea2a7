"""The life of a task as a model: whatever happens in whatever order, each id ends once.

The modules are the real ones, on a fake server in this process. A death is an exception that
nothing catches, raised at a step of the run; what it leaves of the process's record is made that
of a pid that doesn't exist, and another engine is built on the same home.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import tempfile
from typing import Any, ClassVar

import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.fake_uwsgi import FakeUwsgi
from uwsgi_tasks import consumer, dead, engine, handlers, inflight, recovery, runner, task, wire
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.letters import Letters
from uwsgi_tasks.model import SPOOL_OK
from uwsgi_tasks.site import Site
from uwsgi_tasks.store import Store
from uwsgi_tasks.timekeeper import Timekeeper

START = 1_800_000_000.25
NO_PID = 2**31 - 1  # beyond the kernel's largest
MOST_CALLS = 6
MAX_CRASHES = 3
_PID_AT = 4096 + 64 + 3  # of the first record

STEPS = [
    (inflight.Inflight, "begin"),
    (runner, "run"),
    (Site, "wait"),
    (Letters, "keep"),
    (Letters, "_keep_story"),
    (Store, "finish"),
    (Store, "mark_in_spool"),
    (Store, "mark_entered"),
    (Store, "mark_ready"),
    (Site, "promote_batch"),
    (Site, "promote_one"),
    (to_spool, "prepare"),
    (to_spool, "enter"),
    (Site, "pump"),
    (to_spool, "submit_once"),
    (inflight.Inflight, "note_over"),
    (inflight.Inflight, "end"),
    (inflight.Inflight, "clear"),
]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "retried": {"retry_count": 3},
    "retried later": {"retry_count": 4, "retry_timeout": 5},
    "delayed": {"delay": 10},
    "prioritised": {"priority": 5, "retry_count": 2},
    "urgent": {"priority": 1},
    "urgent later": {"priority": 1, "delay": 10},
    "expiring": {"expires": 30, "retry_count": 2},
    "delayed and expiring": {"delay": 20, "expires": 40},
}
WAYS = ["kill", "told to end", "reload", "stop", "power"]
ends, ways = st.sampled_from(["ok", "raise", "exit"]), st.sampled_from(WAYS)
indices, moments = st.integers(0, 1000), st.sampled_from([0.2, 4.0, 16.0, 65.0, 700.0, 4000.0])


class Died(BaseException):
    """Stands for SIGKILL: no handler of the library catches it."""


class Now:
    """What the task does in the present run, and what ran so far."""

    end = "ok"
    runs: ClassVar[list[tuple[str, int]]] = []


@task(executor="spooler", working_dir=None)
def live():
    message = runner.current.get().message
    Now.runs.append((message.id, message.delivery))
    if Now.end == "raise":
        raise KeyError("no")
    if Now.end == "exit":
        raise SystemExit(3)


@contextlib.contextmanager
def dying(step: tuple[Any, str], after: bool):
    """Let the process die before or after the first call of a function; tell whether it did."""
    owner, name = step
    original = getattr(owner, name)

    def deadly(*args, **kwargs):
        if after:
            setattr(owner, name, original)
            original(*args, **kwargs)
        raise Died

    setattr(owner, name, deadly)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def full_disk():
    """Let nothing be written that follows from a run."""

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    steps = [(Store, "put"), (Letters, "_write"), (to_spool, "_write")]
    originals = [getattr(*step) for step in steps]
    for owner, name in steps:
        setattr(owner, name, refuse)
    try:
        yield
    finally:
        for (owner, name), original in zip(steps, originals, strict=True):
            setattr(owner, name, original)


class Life(RuleBasedStateMachine):
    """One spool, one spooler at a time, a few calls."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="uwsgi-life-")
        self.spool = os.path.realpath(os.path.join(self.folder, "spool"))
        os.mkdir(self.spool)
        self.clock = time_machine.travel(START, tick=False)
        self.time = self.clock.start()
        self.started_on = 1_700_000_000
        self.handles: dict[str, Any] = {}
        self.allowed: dict[str, int] = {}
        self.over: dict[str, str] = {}
        self.history: dict[str, bytes] = {}
        Now.end, Now.runs = "ok", []
        self.seen = 0
        self.start(is_a_reload=False)

    def start(self, *, is_a_reload: bool) -> None:
        """Start a spooler on the home, as the handlers do after the fork."""
        fake = FakeUwsgi(spoolers=[self.spool])
        fake.spooler, fake.worker = True, 0
        vars(fake.module).update(started_on=self.started_on, is_a_reload=is_a_reload)
        chosen = {"max_crashes": MAX_CRASHES, "max_interruptions": 4}
        self.engine = engine.Engine(fake.server(), chosen)
        engine.reset(self.engine)
        handlers._state.update(spool=self.spool)
        self.site = self.engine.require_site()
        self.instance = consumer.instance_of(self.engine.server)
        self.site.inflight.forget_stop(self.instance)
        self.site.inflight.claim(inflight.SPOOLER, 0, self.instance)
        recovery.load_passed_over(self.site)
        self.keeper = Timekeeper(self.engine, self.site, {})
        to_spool.hold("")

    def die(self, way: str) -> None:
        """End the process in some way, and let another one take over."""
        here = self.site.inflight
        for ident in self.engine.unsettled:
            self.allowed[ident] += 1  # it ran, and nothing of it is written down
        if way == "told to end":
            here.mark()
        elif way == "stop":
            here.note_stop(self.instance)
        for record in here.records():
            if here.is_mine(record):
                at = _PID_AT + record.place * 128
                here._map[at : at + 4] = struct.pack("<I", NO_PID)
        self.close()
        self.started_on += way in ("reload", "stop", "power")
        self.start(is_a_reload=way == "reload")

    def close(self) -> None:
        self.site.store.close()
        self.site.inflight._map.close()
        os.close(self.site.inflight._descriptor)

    def files(self) -> list[str]:
        names = [name for name in os.listdir(self.spool) if name.startswith(to_spool.FILE_PREFIX)]
        return sorted(names)

    def handle(self, name: str) -> int:
        """Let the handler of uWSGI have a file; what it answers decides about the file."""
        self.time.shift(0.001)
        with open(os.path.join(self.spool, name), "rb") as file:
            content = file.read()
        self.history[name] = content
        env = {"spooler_task_name": name.encode(), wire.MARK: b"1"}
        return handlers.on_spool({**env, "body": wire.envelope_of_file(content)})

    def scan(self, name: str) -> None:
        if self.handle(name) == SPOOL_OK:
            os.unlink(os.path.join(self.spool, name))

    def id_of(self, name: str) -> str:
        body = wire.envelope_of_file(self.history[name])
        return wire.unpack(body, self.site.signer).id

    # what happens

    @precondition(lambda self: len(self.handles) < MOST_CALLS)
    @rule(kind=st.sampled_from(sorted(KINDS)))
    def call(self, kind):
        self.time.shift(0.001)
        chosen = dict(KINDS[kind])
        if "delay" in chosen:
            chosen["at"] = self.now() + chosen.pop("delay")
        found = live.options(**chosen)()
        self.handles[found.id] = found
        self.allowed[found.id] = chosen.get("retry_count", 1)

    def now(self) -> float:
        return __import__("time").time()

    @precondition(lambda self: self.files())
    @rule(which=indices, end=ends)
    def run(self, which, end):
        Now.end, names = end, self.files()
        self.scan(names[which % len(names)])

    @precondition(lambda self: self.files())
    @rule(which=indices, end=ends, step=st.sampled_from(STEPS), after=st.booleans(), way=ways)
    def run_and_die_at_a_step(self, which, end, step, after, way):
        Now.end, names = end, self.files()
        name = names[which % len(names)]
        with dying(step, after):
            try:
                self.scan(name)
                return
            except Died:
                self.allowed[self.id_of(name)] += 1
        self.die(way)

    @precondition(lambda self: self.files())
    @rule(which=indices, end=ends, way=ways)
    def run_and_die_before_the_file_goes(self, which, end, way):
        Now.end, names = end, self.files()
        self.handle(names[which % len(names)])
        self.die(way)

    @precondition(lambda self: self.files())
    @rule(which=indices, end=ends)
    def run_on_a_full_disk(self, which, end):
        Now.end, names = end, self.files()
        with full_disk():
            self.scan(names[which % len(names)])

    @precondition(lambda self: self.handles)
    @rule(which=indices)
    def cancel(self, which):
        ident = list(self.handles)[which % len(self.handles)]
        to_spool.hold("")  # the caller is another process
        if self.handles[ident].cancel():
            assert ident not in self.over, "what is over was cancelled"
            self.over[ident] = "cancelled"

    @precondition(lambda self: self.history)
    @rule(which=indices, renamed=st.booleans())
    def replay(self, which, renamed):
        name = list(self.history)[which % len(self.history)]
        target = f"{to_spool.FILE_PREFIX}host_{len(self.history)}_{which}" if renamed else name
        path = os.path.join(self.spool, target)
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.write(self.history[name])

    @precondition(lambda self: "dead" in self.over.values())
    @rule(which=indices)
    def retry_the_dead(self, which):
        there = sorted(ident for ident, state in self.over.items() if state == "dead")
        ident = there[which % len(there)]
        dead.retry(ident)
        del self.over[ident]
        self.allowed[ident] += 4  # the most that a kind may run

    @rule()
    def tick(self):
        self.keeper.tick(self.now())

    @rule(step=st.sampled_from(STEPS), after=st.booleans(), way=ways)
    def tick_and_die(self, step, after, way):
        with dying(step, after):
            try:
                self.keeper.tick(self.now())
                return
            except Died:
                pass
        self.die(way)

    @rule(seconds=moments)
    def wait(self, seconds):
        self.time.shift(seconds)

    @rule(way=ways)
    def end_with_nothing_in_hand(self, way):
        self.die(way)

    # what always holds

    @invariant()
    def nothing_runs_after_its_end(self):
        for ident, delivery in Now.runs[self.seen :]:
            assert ident not in self.over, f"{ident} ran after it was {self.over[ident]}"
            before = [number for known, number in Now.runs[: self.seen] if known == ident]
            assert delivery > max(before, default=0), f"delivery {delivery} of {ident} ran again"
        self.seen = len(Now.runs)
        self.note_ends()

    def note_ends(self) -> None:
        for ident in self.handles:
            state = self.state_of(ident)
            if state is not None:
                assert self.over.get(ident, state) == state, f"{ident}: {self.over[ident]}, {state}"
                self.over[ident] = state

    def state_of(self, ident: str) -> str | None:
        """Return the final state of an id as its home tells it."""
        found = self.site.inflight.over_at(ident)
        state = inflight.STATES.get(found[1]) if found else None
        letter = self.site.letters.read(ident)
        if letter is not None:
            return "expired" if letter.reason == "expired" else "dead"
        return state if state in ("ok", "cancelled") else None

    @invariant()
    def nothing_runs_too_often(self):
        for ident, most in self.allowed.items():
            runs = sum(known == ident for known, _ in Now.runs)
            assert runs <= most, f"{ident} ran {runs} times, {most} are allowed"

    @invariant()
    def there_is_no_letter_of_what_nobody_called(self):
        assert {letter.id for letter in self.site.letters.list()} <= set(self.handles)

    # how it ends

    def teardown(self) -> None:
        try:
            self.drain()
            missing = [ident for ident in self.handles if ident not in self.over]
            assert not missing, f"lost: {missing}"
        finally:
            self.close()
            self.clock.stop()
            shutil.rmtree(self.folder)

    def drain(self) -> None:
        Now.end = "ok"
        for _ in range(100):
            for name in self.files():
                if name in self.files():
                    self.scan(name)
                    self.nothing_runs_after_its_end()
            self.time.shift(301)
            self.keeper.tick(self.now())
            if not self.files() and self.site.store.next_due() is None:
                self.nothing_runs_too_often()
                return
        raise AssertionError(f"it never ends: {self.files()}")


@pytest.fixture
def quiet(caplog):
    """Keep thousands of expected log lines out of the report."""
    caplog.set_level("CRITICAL", logger="uwsgi_tasks")


def live_through(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_given_any_history_when_all_has_run_then_each_task_ended_once(quiet):
    live_through(60, 30)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_given_many_long_histories_when_all_has_run_then_each_task_ended_once(quiet):
    live_through(600, 60)
