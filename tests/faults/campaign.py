"""Seeded random campaigns of any length: calls, kills and reloads in any mixture, then the checker.

    python -m tests.faults.campaign --seconds 60             # or: make faults SECONDS=60
    python -m tests.faults.campaign --seed 7 --round 12      # what a failure says to replay

What is drawn depends on the seed and the number of the round alone; which process a fault meets
depends on the moment, too, so that a failure may need several replays.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer

from . import actions, scenario
from .checker import Checker
from .points import STEPS
from .workload import KINDS

ROUNDS_PER_SERVER = 6
PATIENCE_S = 60.0
TASKS = {
    "good": 8,
    "long": 2,
    "retries": 3,
    "retries_later": 2,
    "fifteen": 1,
    "stumbles": 1,
    "dies": 2,
    "exhausted": 2,
    "poison": 0.3,
    "muled": 3,
    "mule_retries": 1,
    "mule_retries_later": 1,
    "mule_stumbles": 0.5,
    "mule_dies": 1,
    "mule_poison": 0.2,
}
ACTIONS = {
    "shoot": 6,
    "kill_spooler": 3,
    "kill_worker": 1,
    "kill_mule": 2,
    "tell_to_end": 1,
    "reload": 2,
    "restart": 1,
    "kill_everything": 1,
    "kill_master": 0.5,
    "shoot_everything": 1,
}


def draw(random_: random.Random, weights: dict[str, Any]) -> str:
    """Draw a name by its weight."""
    return random_.choices([*weights], [*weights.values()])[0]


class Round:
    """One workload with what happens to the server meanwhile.

    Args:
        server: The server.
        random_: What everything is drawn from.
        spoolers: How many spooler processes the server has.
    """

    def __init__(self, server: UwsgiServer, random_: random.Random, spoolers: int) -> None:
        self.server, self.random, self.spoolers = server, random_, spoolers
        self.told: list[str] = []

    def run(self) -> None:
        """Do all of it, and check it.

        Raises:
            AssertionError: A rule is broken.
        """
        actions.revive(self.server)
        checker = Checker(self.server, spoolers=self.spoolers)
        plan = [self._call] * self.random.randint(3, 14)
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            plan.insert(self.random.randint(0, len(plan)), self._act)
        for step in plan:
            actions.revive(self.server)
            step()
        self._end_shots()
        checker.wait(PATIENCE_S)

    def _end_shots(self) -> None:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not (self.server.dir / "fault").exists(), 0.3)
        actions.disarm(self.server)
        with contextlib.suppress(AssertionError):  # one that was fired right now kills right now
            wait_until(lambda: scenario.is_dead(self.server), 0.1)
        actions.revive(self.server)

    def _call(self) -> None:
        name = draw(self.random, TASKS)
        options = self._options(in_mule=KINDS[name].mule)
        args = (round(self.random.uniform(0.05, 0.4), 2),) if name == "long" else ()
        how = self.random.random()
        self.told.append(f"{name} {options}")
        if how < 0.1 and not args and not KINDS[name].mule:
            actions.cancel(self.server, name, **options)
        elif how < 0.15 and not args:
            actions.send_from_outside(self.server, name, **options)
        else:
            actions.send(self.server, name, *args, **options)

    def _options(self, *, in_mule: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.random.random() < 0.2:
            options["at"] = round(self.random.uniform(0.05, 0.8), 2)
        if self.random.random() < 0.25:
            options["priority"] = self.random.randint(1, 5)
        if self.random.random() < 0.05 and "at" not in options:
            options["expires"] = round(self.random.uniform(0.01, 1.0), 2)
        if self.random.random() < 0.05 and not in_mule:
            options["durability"] = "disk"
        return options

    # what happens to the server

    def _act(self) -> None:
        name = draw(self.random, ACTIONS)
        self.told.append(name)
        act: Callable[[], None] = getattr(self, f"_{name}")
        if name not in ("shoot", "shoot_everything"):
            self._end_all_shots()
        self._pause()
        act()

    def _end_all_shots(self) -> None:
        """Don't let everything be killed in the middle of a reload that waits for its end."""
        if self.told.count("shoot_everything"):
            self._end_shots()

    def _pause(self) -> None:
        """Let a drawn number of rows be written, or a moment pass in which there are none."""
        rows = len(self.server.ledger.rows()) + self.random.randrange(6)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(self.server.ledger.rows()) >= rows, 0.5)

    def _shoot(self, *, everything: bool = False) -> None:
        step, when = self.random.choice([*STEPS]), self.random.choice(("before", "after"))
        number = self.random.choice((1, 1, 1, 2, 3))
        kind = self.random.choice(("any", "spooler"))
        self.told[-1] += f" {when} {step} in {kind}, call {number}"
        actions.arm(self.server, step, when, n=number, kind=kind, everything=everything)

    def _shoot_everything(self) -> None:
        self._shoot(everything=True)

    def _kill_spooler(self) -> None:
        actions.kill_one(self.server, "spooler", self.random.randrange(9))

    def _kill_worker(self) -> None:
        actions.kill_one(self.server, "worker", self.random.randrange(9))

    def _kill_mule(self) -> None:
        actions.kill_one(self.server, "mule", self.random.randrange(9))

    def _tell_to_end(self) -> None:
        kind = self.random.choice(("spooler", "mule"))
        sig = self.random.choice((signal.SIGTERM, signal.SIGINT))
        actions.kill_one(self.server, kind, self.random.randrange(9), sig)

    def _reload(self) -> None:
        actions.reload(self.server)

    def _restart(self) -> None:
        actions.restart(self.server, self.random.choice((signal.SIGINT, signal.SIGQUIT)))

    def _kill_everything(self) -> None:
        actions.kill_everything(self.server)
        self.server.start_again()

    def _kill_master(self) -> None:
        actions.kill_master(self.server)


class Campaign:
    """Rounds on one server after the other.

    Args:
        seed: What everything is drawn from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._server: UwsgiServer | None = None
        self._spoolers = 1

    def run(self, seconds: float, only: int | None = None) -> None:
        """Do rounds for as long, or one of them."""
        deadline, number = time.monotonic() + seconds, only or 0
        try:
            while time.monotonic() < deadline:
                self._round(number)
                number += only is None
                if only is not None or number % ROUNDS_PER_SERVER == 0:
                    self._close()
        finally:
            self._close()

    def _round(self, number: int) -> None:
        if self._server is None:
            self._start(number)
        assert self._server is not None
        this = Round(self._server, random.Random(f"{self.seed} {number}"), self._spoolers)
        try:
            this.run()
        except Exception as error:
            self._fail(number, this, error)
        else:
            self.counts["rounds"] += 1

    def _start(self, number: int) -> None:
        random_ = random.Random(f"{self.seed} server {number // ROUNDS_PER_SERVER}")
        self._spoolers = random_.choice((1, 1, 2, 3))
        numbers = (f"spooler-processes = {self._spoolers}", f"workers = {random_.choice((1, 2))}")
        self._server = scenario.start(UwsgiServer, *numbers, "disable-logging = true")

    def _fail(self, number: int, this: Round, error: Exception) -> None:
        assert self._server is not None
        self.counts["rounds"] += 1
        self.failures.append(f"seed {self.seed}, round {number}")
        print(f"FAILED: seed {self.seed}, round {number}: {type(error).__name__}: {error}")
        print("what it did:", *this.told, sep="\n    ")
        print(f"{self._server.explain()}\nreplay: {replay(self.seed, number)}", flush=True)
        self._close()

    def _close(self) -> None:
        if self._server is not None:
            rows = self._server.ledger.rows()
            self.counts["calls"] += sum(row["event"] == "acknowledged" for row in rows)
            self.counts["starts"] += sum(row["event"] == "started" for row in rows)
            self.counts["kills"] += sum(row["event"] == "killed" for row in rows)
            for row in rows:
                if row["event"] == "stopping":
                    self.counts[f"{row['how']}s" if row["how"] != "all" else "power cuts"] += 1
            self._server.close()
            self._server = None


def replay(seed: int, number: int) -> str:
    """Return the command that does a round again."""
    return f"python -m tests.faults.campaign --seed {seed} --round {number}"


def main() -> int:
    """Run a campaign as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.faults.campaign")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, help="what everything is drawn from; else a new one")
    parser.add_argument("--round", type=int, help="this round alone, again and again")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    campaign = Campaign(seed)
    campaign.run(arguments.seconds, arguments.round)
    print(", ".join(f"{count} {what}" for what, count in campaign.counts.items()), end="; ")
    print("0 lost, 0 unexplained" if not campaign.failures else f"failed: {campaign.failures}")
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
