"""Play all stories as a visitor would, over HTTP, and check that each went as told."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0
MINUTE_S = 65.0
LATE_S = 1.5

Row = dict[str, Any]


class Failed(Exception):
    """A story went another way than told."""


class Walkthrough:
    """One visit of the page.

    Args:
        url: Address of the page.
        state: The state directory, where the stories leave their files.
        pause: Waits for some seconds; raises if the visit has to end.
    """

    def __init__(self, url: str, state: Path, pause: Callable[[float], None]) -> None:
        self.url = url
        self.state = state
        self._pause = pause

    def play(self) -> bool:
        """Play all stories and print how they went; return whether all went well."""
        self._press("/stories/cron")  # comes with the next minute, while the others are played
        verdicts = {}
        for story in (
            self.welcome,
            self.purchase,
            self.cleanup,
            self.later,
            self.broken,
            self.timer,
            self.mule,
            self.burst,
            self.export,
            self.cron,
        ):
            verdicts[story.__name__] = self._play(story)
        self._press("/cron/stop")
        print("\n" + "\n".join(table(self._look()["runs"], verdicts)) + "\n")
        wrong = [name for name, problem in verdicts.items() if problem]
        print(f"{len(verdicts) - len(wrong)} of {len(verdicts)} stories went as told.")
        return not wrong

    def _play(self, story: Callable[[], str]) -> str:
        """Play one; return what was wrong with it, or nothing."""
        print(f"  {story.__name__:<9} ", end="", flush=True)
        try:
            told, problem = story(), ""
        except (Failed, OSError) as error:
            told = problem = str(error) or repr(error)
        print("✗" if problem else "✓", told)
        return problem

    # stories

    def welcome(self) -> str:
        """An e-mail arrives."""
        self._press("/stories/welcome", name="Ada Lovelace")
        (run,) = self._wait_for("welcome", ended=1)
        mail = self._look()["mail"]
        expect(run["outcome"] == "ok", f"the task ended with {run['outcome']}: {run.get('error')}")
        expect(len(mail) == 1, f"{len(mail)} e-mails came in instead of 1")
        expect(mail[0]["to"] == "ada.lovelace@example.com", f"it went to {mail[0]['to']}")
        return f"“{mail[0]['subject']}” came in by SMTP"

    def purchase(self) -> str:
        """A task fails twice, then succeeds."""
        self._press("/stories/purchase")
        runs = self._wait_for("purchase", ended=3)
        outcomes = [run["outcome"] for run in runs]
        expect(outcomes == ["retry", "retry", "ok"], f"the attempts were {outcomes}")
        expect([run["attempt"] for run in runs] == [1, 2, 3], "the attempts were numbered wrongly")
        pauses = [run["started"] - run["called"] for run in runs[1:]]
        expect(min(pauses) >= 0.99, f"an attempt came too early, after {min(pauses):.2f} s")
        expect(len(list((self.state / "payments").iterdir())) == 1, "the payment isn't there")
        return "two attempts failed, the third succeeded"

    def cleanup(self) -> str:
        """A task calls itself until all files are gone, and carries its notes along."""
        self._press("/stories/cleanup")
        runs = self._wait_for("cleanup", ended=6)
        expect(all(run["outcome"] == "ok" for run in runs), "a step failed")
        (folder,) = (self.state / "uploads").iterdir()
        left = sorted(path.name for path in folder.iterdir())
        expect(left == ["c-folder"], f"these files are left: {left}")
        told: str = runs[-1]["note"]
        expect(told == "done: 3 removed, 1 kept (c-folder)", f"its notes say: {told}")
        return told

    def later(self) -> str:
        """A task starts three seconds after its call."""
        self._press("/stories/later")
        (run,) = self._wait_for("later", ended=1)
        waited = run["started"] - run["called"]
        expect(3.0 <= waited <= 3.0 + LATE_S, f"it started after {waited:.2f} s instead of 3")
        return f"started {waited:.2f} s after the call"

    def broken(self) -> str:
        """A task dies, its service is repaired, and a retry succeeds."""
        self._press("/service/break")
        self._press("/stories/broken")
        self._until(lambda state: state["dead"], "it isn't among the dead")
        (letter,) = self._look()["dead"]
        expect(letter["task"] == "report_sale", f"{letter['task']} died: {letter['error']}")
        expect(letter["attempts"] == 2, f"it died after {letter['attempts']} attempts")
        expect("out of order" in letter["error"], f"it died of: {letter['error']}")
        self._press("/service/repair")
        self._press(f"/dead/{urllib.parse.quote(letter['id'])}/retry")
        run = self._wait_for("broken", ended=3)[-1]
        expect(run["outcome"] == "ok", f"the retry ended with {run['outcome']}")
        self._until(lambda state: not state["dead"], "it is still among the dead")
        return "died after 2 attempts, was kept, and succeeded once its service was repaired"

    def timer(self) -> str:
        """A timer fires three times."""
        self._press("/stories/timer")
        runs = self._wait_for("timer", ended=3)
        expect(all(run["outcome"] == "ok" for run in runs), f"it failed: {runs[0].get('error')}")
        span = runs[-1]["started"] - runs[0]["started"]
        expect(1.5 <= span <= 2.0 + LATE_S, f"three firings took {span:.2f} s instead of 2")
        return f"fired 3 times in {span:.2f} s"

    def mule(self) -> str:
        """A task runs in the mule."""
        self._press("/stories/mule")
        (run,) = self._wait_for("mule", ended=1)
        expect(run["outcome"] == "ok", f"the task ended with {run['outcome']}")
        expect(run["process"].startswith("mule"), f"it ran in {run['process']}")
        return f"ran in {run['process']}"

    def burst(self) -> str:
        """Ten tasks run in the order of their priorities."""
        self._press("/stories/burst")
        runs = self._wait_for("burst", ended=10)
        order = [int(run["note"].rpartition(" ")[2]) for run in runs]
        spoolers = len(self._look()["server"]["spoolers"])
        # the first ones were let in before the more urgent were called: one for each process;
        # those of several processes may then swap places with their neighbours
        rest = order[spoolers:]
        away = [abs(rest.index(number) - place) for place, number in enumerate(sorted(rest))]
        expect(max(away) < spoolers, f"they ran in the order {order}")
        return f"ran in the order {', '.join(map(str, order))}"

    def export(self) -> str:
        """A longer task writes its file to the end."""
        self._press("/stories/export", seconds="2")
        (run,) = self._wait_for("export", ended=1)
        (path,) = (self.state / "exports").iterdir()
        lines = len(path.read_text().splitlines())
        expect(lines == 20, f"{lines} lines were written instead of 20")
        return f"took {run['finished'] - run['started']:.1f} s, and wrote all {lines} lines"

    def cron(self) -> str:
        """A cron runs at the start of a minute; and the timer didn't fire a fourth time."""
        run = self._wait_for("cron", ended=1, seconds=MINUTE_S)[0]
        second = run["started"] % 60
        expect(run["outcome"] == "ok", f"it failed: {run.get('error')}")
        expect(second <= LATE_S, f"it ran at second {second:.2f} of the minute")
        fired = len(self._runs_of("timer"))
        expect(fired == 3, f"the timer fired {fired} times instead of 3")
        return f"ran {second:.2f} s into the minute"

    # looking and pressing

    def _look(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "state", timeout=10) as answer:
            state: dict[str, Any] = json.load(answer)
        return state

    def _press(self, path: str, **form: str) -> None:
        data = urllib.parse.urlencode(form).encode()
        urllib.request.urlopen(self.url + path.lstrip("/"), data=data, timeout=10).close()

    def _runs_of(self, story: str) -> list[Row]:
        return [run for run in self._look()["runs"] if run["story"] == story]

    def _until(
        self,
        condition: Callable[[dict[str, Any]], Any],
        otherwise: str,
        seconds: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Look until a condition holds; return what was seen then."""
        deadline = time.monotonic() + seconds
        while not condition(state := self._look()):
            if time.monotonic() > deadline:
                raise Failed(f"{otherwise} after {seconds:g} s")
            self._pause(0.05)
        return state

    def _wait_for(self, story: str, ended: int, seconds: float = PATIENCE_S) -> list[Row]:
        """Wait until so many runs of a story have ended; return them as they started."""

        def over(state: dict[str, Any]) -> bool:
            runs = [run for run in state["runs"] if run["story"] == story]
            return sum("outcome" in run for run in runs) >= ended

        state = self._until(over, f"fewer than {ended} runs of it have ended", seconds)
        return [run for run in state["runs"] if run["story"] == story and "outcome" in run]


def expect(truth: bool, otherwise: str) -> None:
    """Fail a story unless something is true."""
    if not truth:
        raise Failed(otherwise)


def table(runs: Iterable[Row], verdicts: dict[str, str]) -> list[str]:
    """Return the lines of a table: one for each call, with all its attempts."""
    calls: dict[tuple[str, str], list[Row]] = {}
    for run in runs:
        calls.setdefault((run["story"], run["id"]), []).append(run)
    head = ("STORY", "TASK", "EXECUTOR", "PROCESS", "PID", "TRIES", "WAITED MS", "RAN MS", "")
    rows = [head, *(line_of(attempts, verdicts) for attempts in calls.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column in (4, 5, 6, 7) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def line_of(attempts: list[Row], verdicts: dict[str, str]) -> tuple[str, ...]:
    """Return the cells of one call: its last process, and the times of all attempts together."""
    last = attempts[-1]
    ran = [run for run in attempts if "finished" in run]
    waited = [
        run["started"] - run["called"] for run in attempts if run.get("called") and "started" in run
    ]
    well = last.get("outcome") == "ok" and not verdicts.get(last["story"])
    return (
        last["story"],
        last["task"],
        last["executor"],
        last.get("process", "—"),
        str(last.get("pid", "—")),
        str(len(ran)),
        f"{sum(waited) * 1000:.0f}" if waited else "—",
        f"{sum(run['finished'] - run['started'] for run in ran) * 1000:.0f}" if ran else "—",
        "✓" if well else "✗",
    )
