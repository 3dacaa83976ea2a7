"""The demo: one command that shows the main job, and a page that people look at."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.ledger import wait_until

DEMO = Path(__file__).parents[2] / "examples" / "quickstart" / "demo.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
]
ON_3_AND_4 = """
import os, sys
reader, writer, *command = sys.argv[1:]
os.dup2(int(reader), 3)
os.dup2(int(writer), 4)
os.execvp(command[0], command)
"""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class Demo:
    """The demo, started as a visitor would."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.output = state.with_suffix(".out")
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(DEMO), "--state", str(state), "--port", "0"],
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_for_output(r"Open the page")
        except BaseException:
            self.close()
            raise
        self.url = re.search(r"http://\S+/", self.said())[0]
        self.session = int((state / "server.pid").read_text())

    def said(self) -> str:
        return self.output.read_text("utf-8")

    def wait_for_output(self, pattern: str) -> None:
        def found() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.said()), self.said()
            return bool(re.search(pattern, self.said()))

        wait_until(found, 30)

    def press(self, path: str, **form: str) -> None:
        data = urllib.parse.urlencode(form).encode()
        urllib.request.urlopen(self.url + path, data=data, timeout=10).close()

    def diary(self, event: str) -> list[dict[str, Any]]:
        try:
            lines = (self.state / "runs.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [entry for line in lines if (entry := json.loads(line))["event"] == event]

    def start_export(self, seconds: float) -> None:
        self.press("stories/export", seconds=str(seconds))
        wait_until(lambda: self.diary("started"), 20)

    def is_gone(self) -> bool:
        return not processes.of_session(self.session)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.killpg(int((self.state / "server.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    started = Demo(tmp_path / "state")
    try:
        yield started
    finally:
        started.close()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_given_nothing_when_the_demo_plays_once_then_every_story_goes_as_told(tmp_path):
    command = [sys.executable, str(DEMO), "--once", "--port", "0", "--state", str(tmp_path / "s")]
    run = subprocess.run(
        command, env=environment(), cwd="/", capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, "10 of 10 stories" in run.stdout) == (0, True), run.stdout + run.stderr


def test_given_a_running_task_when_ctrl_c_is_pressed_then_it_is_finished(demo):
    demo.start_export(2)
    demo.process.send_signal(signal.SIGINT)
    demo.process.wait(30)
    assert [entry["outcome"] for entry in demo.diary("finished")] == ["ok"], demo.said()


def test_given_a_running_task_when_ctrl_c_is_pressed_then_the_demo_ends_well(demo):
    demo.start_export(1)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 0, demo.said()


def test_given_a_demo_when_it_has_ended_then_no_process_is_left(demo):
    demo.process.send_signal(signal.SIGTERM)
    demo.process.wait(30)
    assert demo.is_gone()


def test_given_a_long_task_when_ctrl_c_comes_twice_then_the_demo_stops_at_once(demo):
    demo.start_export(60)
    demo.process.send_signal(signal.SIGINT)
    demo.wait_for_output("Waiting for 1 running task to finish")
    demo.process.send_signal(signal.SIGINT)
    assert (demo.process.wait(15), demo.is_gone()) == (1, True), demo.said()


def test_given_a_demo_that_is_killed_when_its_task_is_over_then_no_process_is_left(demo):
    demo.start_export(1)
    demo.process.kill()
    wait_until(demo.is_gone, 20)


def test_given_a_demo_that_is_killed_then_the_task_in_hand_is_finished_all_the_same(demo):
    demo.start_export(1)
    demo.process.kill()
    wait_until(demo.is_gone, 20)
    assert [entry["outcome"] for entry in demo.diary("finished")] == ["ok"]


def test_given_a_directory_of_somebody_else_when_it_is_named_then_nothing_in_it_is_removed(
    tmp_path,
):
    treasure = tmp_path / "treasure.txt"
    treasure.touch()
    run = subprocess.run(
        [sys.executable, str(DEMO), "--state", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, treasure.exists()) == (2, True), run.stderr


def test_given_a_running_demo_when_another_starts_on_its_state_then_it_is_refused(demo):
    run = subprocess.run(
        [sys.executable, str(DEMO), "--state", str(demo.state), "--port", "0"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, "another demo" in run.stderr) == (2, True), run.stderr


@pytest.mark.parametrize(
    "header",
    [("Host", "evil.example:80"), ("Sec-Fetch-Site", "cross-site")],
    ids=["foreign-name", "foreign-site"],
)
def test_given_another_web_site_when_it_presses_a_button_then_it_is_refused(demo, header):
    request = urllib.request.Request(demo.url + "stories/mule", data=b"", headers=dict([header]))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as answer:
        assert answer.code == 403


class Chromium:
    """A headless browser, driven over a pair of pipes: JSON texts that end with a zero byte."""

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 20) for number in (theirs_in, theirs_out)]
        command = [sys.executable, "-c", ON_3_AND_4, *map(str, high), CHROMIUM or "chromium"]
        self.process = subprocess.Popen(
            [*command, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for number in (theirs_in, theirs_out, *high):
            os.close(number)
        self._answers, self._commands = ours_in, ours_out
        self._buffer, self._number, self._session = b"", 0, {}

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._answers, 65536)
            assert chunk, "chromium has ended"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def open(self, url: str) -> None:
        target = self.send("Target.createTarget", url=url)["targetId"]
        found = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}

    def eval(self, script: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        wait_until(lambda: self.eval(script), 20)

    def close(self) -> None:
        for pipe in (self._commands, self._answers):
            os.close(pipe)  # the end of the pipe ends the browser
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def page(demo: Demo, tmp_path: Path) -> Iterator[Chromium]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no chromium here")
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(demo.url)
        browser.wait_for("document.querySelector('#server')?.dataset.kind === 'ok'")
        yield browser
    finally:
        browser.close()


@pytest.mark.browser
def test_given_the_page_when_a_story_is_clicked_then_its_run_appears(page):
    page.eval("document.querySelector('[data-story=mule] button').click()")
    page.wait_for(
        "/fingerprint_catalogue.*mule 1 · \\d+.*✓ done/"
        ".test(document.querySelector('#runs tbody').textContent)"
    )


@pytest.mark.browser
def test_given_a_name_with_markup_when_the_mail_is_shown_then_it_stays_text(page):
    page.eval("document.querySelector('#name').value = '<i id=evil>Eve</i>'")
    page.eval("document.querySelector('[data-story=welcome] button').click()")
    page.wait_for("document.querySelector('#mail').textContent.includes('<i id=evil>Eve</i>')")
    assert page.eval("document.querySelector('#evil')") is None


@pytest.mark.browser
def test_given_a_dead_task_when_its_service_is_repaired_and_retry_is_clicked_then_it_is_gone(page):
    page.eval("document.querySelector('[data-story=broken] .play').click()")
    page.wait_for("document.querySelector('#dead button') !== null")
    page.eval("document.querySelector('#toggle').click()")
    page.wait_for("document.querySelector('#service').textContent === 'The service works.'")
    page.eval("document.querySelector('#dead button').click()")
    page.wait_for("document.querySelector('#dead-panel').hidden")
