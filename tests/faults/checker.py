"""One checker for all scenarios: nothing lost, nothing unexplained, nothing left.

Its sources are the ledger (what callers acknowledged, what tasks wrote at their start and end,
which processes were killed) and the files of the server.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.ledger import Row, wait_until
from tests.support.server import UwsgiServer
from uwsgi_tasks import inflight

from . import actions
from .workload import KINDS

_LIMIT = re.compile(r"its process died (\d+) times|it was interrupted (\d+) times")


class Story:
    """What the ledger and the files tell of one id."""

    def __init__(self, ident: str, rows: list[Row], letter: Row | None) -> None:
        self.id = ident
        self.starts = [row for row in rows if row["event"] == "started"]
        self.finishes = [row for row in rows if row["event"] == "finished"]
        self.acknowledged = [row for row in rows if row["event"] == "acknowledged"]
        self.cancelling = [row for row in rows if row["event"] == "cancelling"]
        self.cancelled = [row for row in rows if row["event"] == "cancelled" and row["taken"]]
        self.letter = letter
        self.name = next(row["name"] for row in rows if "name" in row)
        self.kind = KINDS[self.name]
        self.expires = any(row.get("expires") for row in self.acknowledged)
        self.in_mule = self.kind.mule

    @property
    def reason(self) -> str:
        return self.letter["reason"] if self.letter else ""


class Deaths:
    """Which processes died when, by somebody's hand, from the begin of a scenario on."""

    def __init__(self, rows: list[Row], since: float) -> None:
        self._rows = rows
        self._killed = [r for r in rows if r["event"] == "killed" and r["time"] >= since]
        self._stops: list[tuple[float, float, list[int]]] = []
        begin = 0.0
        for row in rows:
            if row["event"] == "stopping":
                begin = row["time"]
            elif row["event"] == "stopped" and row["time"] >= since:
                self._stops.append((begin, row["time"], row["alive"]))

    def hit(self, start: Row, before: float = float("inf")) -> bool:
        """Tell whether the process of a start died in it: it started nothing afterwards."""
        later = [
            row
            for row in self._rows
            if row["event"] == "started"
            and row["pid"] == start["pid"]
            and start["time"] < row["time"] < before
        ]
        return not later and self.died(start["pid"], start["time"], before)

    def died(self, pid: int, after: float, before: float) -> bool:
        """Tell whether a process died between two moments."""
        by_hand = any(
            (row["pid"] == pid or row["how"] == "all") and after <= row["time"] <= before
            for row in self._killed
        )
        return by_hand or any(
            begin <= before and after <= end and pid not in alive
            for begin, end, alive in self._stops
        )

    def count(self, before: float) -> int:
        """Return how many deaths there were before a moment, at which a task may have been hit."""
        killed = sum(row["time"] <= before for row in self._killed)
        return killed + sum(begin <= before for begin, _, _ in self._stops)

    def stops(self, before: float) -> int:
        """Return how often the server, or a process of it, was told to end before a moment."""
        hows = (
            "term",
            "master",
        )  # workers of a dead master end in order, perhaps before it is gone
        told = sum(row["time"] <= before and row["how"] in hows for row in self._killed)
        return told + sum(begin <= before for begin, _, _ in self._stops)

    def of_mules(self, after: float) -> tuple[int, bool]:
        """Return how many mules were killed after a moment, and whether a queue was lost."""
        rows = [row for row in self._killed if row["time"] >= after]
        lost = any(end >= after for _, end, _ in self._stops)
        lost |= any(row["how"] in ("all", "master") for row in rows)
        return sum(row.get("kind") == "mule" for row in rows), lost


class Checker:
    """The checks of one scenario on a server, which may have run others before.

    Args:
        server: The server; its application is ``workload.APP``.
        spoolers: How many spooler processes have to live at the end.
    """

    def __init__(self, server: UwsgiServer, *, spoolers: int = 1) -> None:
        self.server = server
        self.spoolers = spoolers
        self._since = time.time()
        self._before = {row["id"] for row in server.ledger.rows() if "id" in row}
        self._temporary = set(self._temporary_files())
        self._kills = len(server.ledger.rows("killed"))

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until everything has come to its end, then check it.

        Raises:
            AssertionError: It didn't, or a rule is broken.
        """
        if any(story.in_mule for story in self.stories().values()):
            self._pass_the_mules()
        try:
            wait_until(lambda: not self.pending(), timeout, "everything has ended")
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.pending())) from None
        with contextlib.suppress(AssertionError):  # a task may write a row at this very moment
            wait_until(lambda: not [*self.problems()], 2.0)
        self.check()

    def _pass_the_mules(self) -> None:
        """Let a last task through the mules' queue: what came before it was taken."""
        send = actions.send
        last = wait_until(lambda: send(self.server, "muled"), 20.0, "a worker answers")
        self.server.ledger.wait("finished", id=last, timeout=20.0)

    def check(self) -> None:
        """Check every rule now.

        Raises:
            AssertionError: One is broken; it names all that are.
        """
        problems = [*self.problems()]
        if problems:
            raise AssertionError("\n".join(problems))

    def stories(self) -> dict[str, Story]:
        """Return what is known of each id of this scenario."""
        rows: dict[str, list[Row]] = {}
        for row in self.server.ledger.rows():
            if "id" in row and row["id"] not in self._before:
                rows.setdefault(row["id"], []).append(row)
        letters = self.server.letters()
        return {ident: Story(ident, found, letters.get(ident)) for ident, found in rows.items()}

    def pending(self) -> list[str]:
        """Return what hasn't come to an end yet."""
        found = [*self._leftovers()]
        for story in self.stories().values():
            if story.finishes or story.letter or story.cancelled:
                continue
            if story.in_mule and not story.starts:
                continue  # the mules' queue was passed: it is lost, which the rules judge
            if self._was_queued_at_a_stop(story):
                continue
            if not (story.cancelling and not story.starts):
                found.append(f"{story.name} {story.id} hasn't ended, {len(story.starts)} starts")
        return found

    def _was_queued_at_a_stop(self, story: Story) -> bool:
        """Tell whether what followed a start lay in the mules' queue, perhaps, when it was lost."""
        if not (story.in_mule and story.starts):
            return False
        deaths = Deaths(self.server.ledger.rows(), self._since)
        return deaths.of_mules(story.starts[-1]["time"])[1]

    # the rules

    def problems(self) -> Iterator[str]:
        """Return each rule that is broken, with the id."""
        rows = self.server.ledger.rows()
        deaths = Deaths(rows, self._since)
        stories = self.stories()
        for story in stories.values():
            for problem in (*self._in_starts(story, deaths), *self._in_end(story, deaths)):
                shown = "\n".join(f"    {row}" for row in rows if row.get("id") == story.id)
                yield f"{story.name} {story.id}: {problem}\n{shown}\n    letter: {story.letter}"
        yield from self._lost_in_mules(stories, deaths)
        yield from self._leftovers()
        yield from self._stray()
        yield from self._dead_processes()

    def _in_starts(self, story: Story, deaths: Deaths) -> Iterator[str]:
        if story.starts and story.starts[0]["attempt"] != 1:
            yield "its first start isn't attempt 1"
        for before, row in zip(story.starts, story.starts[1:], strict=False):
            again, step = row["again"], row["attempt"] - before["attempt"]
            if step not in (0, 1):
                yield f"attempt {row['attempt']} follows attempt {before['attempt']}"
            if step == 0 and not deaths.hit(before, row["time"]):
                yield f"attempt {row['attempt']} started twice, and no process died in it"
            if step == 0 and not again:
                yield f"attempt {row['attempt']} started twice without redelivered=True"
            if step == 1 and any(row["time"] >= f["time"] for f in story.finishes):
                yield f"attempt {row['attempt']} follows a run that finished"
        for row in story.starts:
            ends = row["crashes"] + row["interruptions"]
            if row["again"] != (ends > 0):
                yield f"redelivered={row['again']} with {ends} deaths"
            if ends > deaths.count(row["time"]):
                yield f"{ends} deaths are noted, more than there were"
            if row["interruptions"] > deaths.stops(row["time"]):
                yield f"{row['interruptions']} interruptions, more than there were stops"
        if any(s["time"] > c["time"] for s in story.starts for c in story.cancelled):
            yield "it started after it was cancelled"  # before, where a retry waited

    def _in_end(self, story: Story, deaths: Deaths) -> Iterator[str]:
        if story.cancelled:
            if story.letter:
                yield "it was cancelled and is dead"
            return
        if not story.finishes and not story.letter:
            if self._was_queued_at_a_stop(story):
                return
            if story.starts or not (story.in_mule or story.cancelling):
                yield "it is lost"
            return
        limit = _LIMIT.match(story.reason)
        for finish in story.finishes[: None if story.letter else -1]:
            if not deaths.hit(finish):
                yield f"it finished (pid {finish['pid']}), and that wasn't its end"
        yield from self._in_letter(story, deaths, limit)
        attempts = {row["attempt"] for row in story.starts}
        whole = set(range(1, story.kind.attempts + 1))
        if not limit and story.reason != "expired" and attempts != whole:
            yield f"attempts {sorted(attempts)} of {story.kind.attempts} wanted"

    def _in_letter(
        self, story: Story, deaths: Deaths, limit: re.Match[str] | None
    ) -> Iterator[str]:
        if story.letter is None:
            if story.kind.end == "dead":
                yield "it has no dead letter"
            return
        if not story.reason:
            yield "its dead letter has no reason"
        if limit:
            died = deaths.count(story.letter["dead_at"])
            if died < int(limit[1] or limit[2]):
                yield f"it is dead ({story.reason}) after {died} deaths"
        elif story.finishes and story.reason != "expired":  # which one that was lost may be
            yield f"it is dead ({story.reason}) and finished"
        elif story.kind.end == "ok" and not (story.expires and story.reason == "expired"):
            yield f"it is dead ({story.reason})"
        elif "poison" in story.name and story.reason != "expired":
            yield f"a poison is dead for another reason ({story.reason})"

    def _lost_in_mules(self, stories: dict[str, Story], deaths: Deaths) -> Iterator[str]:
        for story in stories.values():
            if story.in_mule and not story.starts and not story.letter and story.acknowledged:
                killed, lost = deaths.of_mules(story.acknowledged[0]["time"])
                if not lost and not killed:
                    yield f"{story.name} {story.id} is lost, and no mule died"

    def _leftovers(self) -> Iterator[str]:
        ours = {story.id for story in self.stories().values()}
        for path in self.server.spool_files():
            if path.name.removeprefix("uwsgi_spoolfile_on_").partition(".")[0] not in self._before:
                yield f"the spool file {path.name} is left"
        for ident, delivery, state in self._waiting_rows():
            if ident not in self._before:
                yield f"the row of {ident}, delivery {delivery}, state {state}, is left"
        for record in self._records():
            if record.state == inflight.BEGUN and record.id not in self._before:
                known = "known" if record.id in ours else "unknown"
                yield f"the record of {record.id} ({known}), pid {record.pid}, says begun"

    def _waiting_rows(self) -> list[tuple[str, int, int]]:
        path = self.server.home / "store.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(path, timeout=20.0)
        try:
            query = "SELECT id, delivery, state FROM waiting WHERE state < 2"
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # its tables aren't made yet
            return []
        finally:
            connection.close()

    def _records(self) -> list[inflight.Record]:
        path = self.server.home / "inflight"
        if not path.exists():
            return []
        return inflight.Inflight(str(path), str(self.server.home / "hands")).records()

    def _stray(self) -> Iterator[str]:
        """Find temporary files that no killed process explains; those are removed in time."""
        stray = set(self._temporary_files()) - self._temporary
        killed = len(self.server.ledger.rows("killed")) - self._kills
        killed += len(self.server.ledger.rows("stopping"))
        if len(stray) > killed:
            yield f"temporary files are left, {killed} processes were killed: {sorted(stray)}"

    def _temporary_files(self) -> Iterator[Path]:
        for folder in (self.server.spool, self.server.home, self.server.home / "dead"):
            for path in folder.glob(".*"):
                if path != self.server.home:
                    yield path

    def _dead_processes(self) -> Iterator[str]:
        try:
            self.server.eval("1")
        except Exception as error:
            yield f"the server doesn't answer: {error}"
        try:
            wait_until(lambda: len(self.server.pids("spooler")) == self.spoolers, 20.0, "spoolers")
        except AssertionError:
            yield f"{len(self.server.pids('spooler'))} spoolers live, {self.spoolers} expected"
