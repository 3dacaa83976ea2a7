"""The projects that the pages build, each on a real uWSGI."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.ledger import wait_until
from tests.support.server import UwsgiServer, _UnixConnection

from .frames import FRAMES
from .pages import ROOT, blocks, files

READY = "spawned uWSGI worker"
ANY_ADDRESS = "127.0.0.1:8080"
SECRET = {"UWSGITASKS_SECRET": "the same long text on both sides"}


@pytest.fixture
def project():
    """Start what a page builds: its files, and one of its ini files."""
    started = []

    def start(page, *more, ini="uwsgi.ini", env=None, replace=None):
        found = {**FRAMES.get(page, {}), **files(page)}
        found[ini] += "".join(f"{line}\n" for line in more)
        for old, new in (replace or {}).items():
            found = {name: text.replace(old, new) for name, text in found.items()}
        variables = {"VIRTUAL_ENV": sys.prefix, "PYTHONUNBUFFERED": "1", **(env or {})}
        server = UwsgiServer("", http=False, ready=READY, env=variables, files=found)
        started.append(server)
        server.write("uwsgi.ini", found[ini].replace(ANY_ADDRESS, f"{server.dir}/http.sock"))
        return server.start()

    yield start
    for server in started:
        server.close()


def get(server: UwsgiServer, path: str = "/", method: str = "GET") -> tuple[int, str]:
    connection = _UnixConnection(str(server.dir / "http.sock"), 20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def shell(server: UwsgiServer, code: str, **env: str) -> str:
    """Run Python code in the directory of the server, as a user in a shell."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **env},
        cwd=server.dir,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# the README


def test_given_the_readmes_first_example_when_its_page_is_asked_for_then_a_spooler_runs_the_task(
    project,
):
    server = project("README.md")
    assert get(server) == (200, "Thank you\n")
    server.wait_log("^Welcome, ada@example.com$")
    server.wait_log(r"\[spooler .*\] done with task")


def test_given_the_readmes_first_example_when_killed_and_started_again_then_the_call_is_not_lost(
    project,
):
    server = project("README.md")
    server.kill(server.pids("spooler")[0], signal.SIGSTOP)  # as if busy
    get(server)
    server.kill_everything()
    server.start_again()
    server.wait_log("^Welcome, ada@example.com$")


def test_given_the_readmes_first_example_when_reloaded_then_it_still_runs_tasks(project):
    server = project("README.md")
    get(server)
    server.reload()
    get(server)
    wait_until(lambda: server.log().count("Welcome, ada@example.com") == 2)


def test_given_the_readmes_three_lines_when_started_then_the_library_warns_of_nothing(project):
    server = project("README.md")
    get(server)
    server.wait_log("^Welcome, ada@example.com$")
    assert re.findall("uwsgi.tasks.*(?:can't|without|warn)", server.log(), re.I) == []


# the tutorial


@pytest.fixture
def tutorial(project):
    # the task runs in the directory from which it was called, the server's
    return lambda: project("docs/tutorial/first-task.md", replace={"/tmp/mail-server-is": "is"})


def test_given_the_tutorial_when_its_page_is_asked_for_then_the_log_tells_what_it_shows(tutorial):
    server = tutorial()
    status, text = get(server)
    assert (status, text.split()[0]) == (200, "Queued")
    server.wait_log("^uwsgi_tasks.runner: Task app.send_mail started$")
    server.wait_log("^mail sent to ada@example.com$")
    server.wait_log(r"^uwsgi_tasks.runner: Task app.send_mail finished in \d\.\d{3} s$")


def test_given_the_tutorials_failure_when_repaired_then_its_shell_brings_the_task_back(tutorial):
    server = tutorial()
    server.touch("is-down")
    get(server)
    server.wait_log(
        "Task app.send_mail .* is dead after attempt 3:"
        " it raised an exception, and no retry is left$",
        timeout=20,
    )
    server.wait_letter()
    (server.dir / "is-down").unlink()
    code = next(b for b in blocks(ROOT / "docs/tutorial/first-task.md", "python") if not b.file)
    shown = shell(server, code.text, UWSGITASKS_SPOOLER="spool")
    assert shown == "app.send_mail ConnectionError: the mail server is down 3\n"
    server.wait_log("^mail sent to ada@example.com$")
    assert server.letters() == {}


def test_given_the_tutorials_kill_when_started_again_then_the_task_runs(tutorial):
    server = tutorial()
    get(server)
    server.wait_log("Task app.send_mail started")
    server.kill_everything()
    assert "mail sent" not in server.log()
    server.start_again()
    server.wait_log("^mail sent to ada@example.com$")


# the how-to pages


def test_given_the_django_page_when_its_view_is_asked_for_then_the_mail_is_sent(project):
    server = project("docs/how-to/django.md")
    assert get(server) == (200, "Thank you")
    server.wait_log("^Subject: Welcome!$")


def test_given_the_django_page_under_lazy_apps_when_its_background_is_shared_then_it_works(project):
    server = project(
        "docs/how-to/django.md", "lazy-apps = true", "shared-import = mysite.background"
    )
    assert get(server) == (200, "Thank you")
    server.wait_log("^Subject: Welcome!$")
    server.wait_log(r"\[spooler .*\] done with task")


def test_given_the_flask_page_when_posted_to_then_the_task_runs(project):
    server = project("docs/how-to/flask.md")
    status, text = get(server, "/pictures/cat.png", "POST")
    assert status == 200
    assert '"id"' in text
    server.wait_log("^resizing cat.png$")


def test_given_the_flask_page_when_its_report_is_called_then_it_has_a_context(project):
    server = project("docs/how-to/flask.md")
    shell(server, "import reports; reports.report()", UWSGITASKS_SPOOLER="spool")
    server.wait_log("^reporting for app$")


def test_given_the_lazy_apps_page_when_asked_for_then_a_spooler_runs_the_task(project):
    server = project("docs/how-to/lazy-apps.md")
    assert get(server) == (200, "ok\n")
    server.wait_log("^Hello, Ada$")
    server.wait_log(r"\[spooler .*\] done with task")


def test_given_the_lazy_apps_page_without_its_remedy_when_called_then_the_log_says_what_it_quotes(
    project,
):
    page = "docs/how-to/lazy-apps.md"
    server = project(page, replace={"shared-import = tasks\n": ""})
    get(server)
    quoted = " ".join(re.findall(r"^> (.*)$", (ROOT / page).read_text(), re.M))
    server.wait_log(re.escape(quoted))


@pytest.fixture
def background(project):
    """The other side of the page on network spoolers, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    page = "docs/how-to/network-spooler.md"
    return project(page, ini="background.ini", env=SECRET, replace={"127.0.0.1:3031": address})


def test_given_the_network_page_when_published_then_the_other_server_runs_what_is_meant_for_it(
    background, uwsgi
):
    tasks = (background.dir / "tasks.py").read_text()
    here = uwsgi("from tasks import publish\n", env=SECRET, files={"tasks.py": tasks})
    here.call("publish", "x")
    background.wait_log("^rendering x$")
    background.wait_log("^scaling x$")
    here.wait_log("^rendering x$")
    assert "scaling" not in here.log()


def test_given_the_network_page_when_a_script_with_a_home_publishes_then_the_server_runs_it(
    background, tmp_path
):
    code = "import tasks; tasks.thumbnail('x')"
    assert shell(background, code, UWSGITASKS_HOME=str(tmp_path / "home"), **SECRET) == ""
    background.wait_log("^scaling x$")


def test_given_the_deploy_page_when_started_then_it_is_strict_and_runs_tasks(project):
    readme = files("README.md")["app.py"]
    FRAMES["docs/how-to/deploy.md"] = {"app.py": readme}
    server = project("docs/how-to/deploy.md")
    get(server)
    server.wait_log("^Welcome, ada@example.com$")
    assert len(server.pids("spooler")) == 2


def test_given_the_deploy_pages_queues_when_called_then_the_task_goes_to_its_own_spool(uwsgi):
    page = ROOT / "docs/how-to/deploy.md"
    ini = next(block.text for block in blocks(page, "ini") if "tasks-queues" in block.text)
    code = next(block.text for block in blocks(page, "python") if "queue=" in block.text)
    lines = [line.replace("%d", "{dir}/") for line in ini.splitlines() if line[0] != "["]
    server = uwsgi(code + "\nstate = lambda: send_mail('x')._receipt.spool\n", *lines)
    assert server.eval("state()") == f"{server.dir}/spool-mail"
    server.wait_empty(where=server.dir / "spool-mail")


SLOW = """
from uwsgi_tasks import task

@task
def slow(name):
    note("started", name=name)
    wait_for_file(name)
    note("ended", name=name)
"""


def test_given_the_reload_pages_script_when_run_then_the_task_ends_and_the_next_one_waits(uwsgi):
    script = files("docs/how-to/reload-and-binary-path.md")["deploy.py"]
    server = uwsgi(SLOW, "master-fifo = {dir}/master.fifo", files={"deploy.py": script})
    outside = {"UWSGITASKS_SPOOLER": str(server.spool)}
    code = f"import deploy; deploy.reload({str(server.dir / 'master.fifo')!r}, %s)"
    server.call("slow", "go")
    server.ledger.wait_one("started", name="go")
    with pytest.raises(AssertionError, match="A task still runs"):
        shell(server, code % 0.1, **outside)
    server.touch("go")
    shell(server, code % 20, **outside)
    assert len(server.ledger.rows("ended", name="go")) == 1
    wait_until(lambda: server.log().count("spawned uWSGI master process") == 2)
    server.touch("next")
    server.call("slow", "next")
    server.ledger.wait_one("ended", name="next")
    assert len(server.ledger.rows("started", name="go")) == 1


def test_given_the_reload_pages_drain_when_stopped_and_started_then_calls_wait_until_resumed(uwsgi):
    text = (ROOT / "docs/how-to/reload-and-binary-path.md").read_text()
    drain, resume = re.findall(r"^python -c '(import uwsgi_tasks; .*)'", text, re.M)[-2:]
    server = uwsgi(SLOW)
    outside = {"UWSGITASKS_SPOOLER": str(server.spool)}
    shell(server, drain.split("'")[0], **outside)
    server.touch("next")
    server.call("slow", "next")
    server.restart()
    assert server.ledger.rows("started") == []
    shell(server, resume, **outside)
    server.ledger.wait_one("ended", name="next")


def test_given_the_dead_letters_page_when_a_task_failed_then_it_is_shown_and_runs_again(uwsgi):
    script = files("docs/how-to/dead-letters.md")["letters.py"]
    source = """
import os
from uwsgi_tasks import task

@task
def charge(order):
    note("charged", order=order)
    if not os.path.exists("repaired"):
        raise ValueError("the bank is closed")
"""
    server = uwsgi(source, files={"letters.py": script})
    outside = {"UWSGITASKS_SPOOLER": str(server.spool)}
    server.call("charge", 7)
    ident = server.wait_letter()["id"]
    shown = shell(server, "import letters; letters.show()", **outside)
    error = "it raised an exception | ValueError: the bank is closed"
    assert shown.strip() == f"{ident} | app.charge | {error}"
    server.touch("repaired")
    shell(server, "import letters; letters.retry('app.charge')", **outside)
    server.ledger.wait("charged", order=7, count=2)
    server.wait_empty()
    assert server.letters() == {}


def test_given_the_long_tasks_page_when_its_import_is_killed_then_it_goes_on_where_it_was(uwsgi):
    script = files("docs/how-to/long-tasks.md")["pages.py"]
    source = """
import os, pages
from uwsgi_tasks import get_current_task

def import_page(number):
    note("page", number=number, again=get_current_task().redelivered)
    if number == 2 and not get_current_task().redelivered:
        os.kill(os.getpid(), 9)

pages.import_page = import_page
run = lambda: pages.import_pages(4)
"""
    server = uwsgi(source, files={"pages.py": script})
    server.eval("run()")
    server.ledger.wait("page", number=3)
    rows = [(row["number"], row["again"]) for row in server.ledger.rows("page")]
    assert rows == [(0, False), (1, False), (2, False), (2, True), (3, True)]


@pytest.mark.parametrize("old", ["the old key of this site", None], ids=["secret", "generated"])
def test_given_a_new_key_before_the_old_one_when_restarted_then_nothing_is_lost(project, old):
    new = "the new key of this site"
    server = project("README.md", env={"UWSGITASKS_SECRET": old} if old else {})
    server.kill(server.pids("spooler")[0], signal.SIGSTOP)
    get(server)
    server.kill_everything()
    key = old or (server.home / "key").read_text()
    server._env["UWSGITASKS_SECRET"] = f"{new},{key}"
    server.start_again()
    server.wait_log("^Welcome, ada@example.com$")
    server.kill_everything()
    server._env["UWSGITASKS_SECRET"] = new
    server.start_again()
    get(server)
    server.wait_log("^Welcome, ada@example.com$")
    assert server.letters() == {}


def test_given_a_changed_key_without_the_old_one_when_started_then_the_log_names_the_cure(project):
    server = project("README.md", env={"UWSGITASKS_SECRET": "the old key of this site"})
    get(server)
    server.wait_log("^Welcome, ada@example.com$")
    server.kill_everything()
    server._env["UWSGITASKS_SECRET"] = "the new key of this site"
    server.start_again()
    server.wait_log("uwsgi-tasks can't work here: The home .* was written with another key")


# the table of lazy-apps

TIMERS = """
from uwsgi_tasks import task, timer, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def spooled():
    note("a task in a spooler", place=place())

@task(executor=TaskExecutor.MULE)
def muled():
    note("a task in a mule", place=place())
""" + "".join(
    f"""
@timer(seconds=0.2, target={target!r})
def {name}():
    note({name!r}, place=place())
"""
    for name, target in {
        "spooler": "spooler",
        "mule": "mule",
        "worker": "worker",
        "workers": "workers",
        "worker1": "worker1",
    }.items()
)


@pytest.mark.parametrize(
    ("option", "works", "fails"),
    [
        ("shared-import", {"spooler", "mule", "worker", "workers", "worker1"}, set()),
        ("spooler-import", {"spooler", "worker"}, {"mule", "workers", "worker1"}),
    ],
)
def test_given_a_column_of_the_lazy_apps_table_when_tried_then_it_is_as_it_says(
    uwsgi, option, works, fails
):
    server = uwsgi(TIMERS, "lazy-apps = true", f"{option} = app", "mule = true")
    for event in works:
        server.ledger.wait(event, count=3)
    places = {row["event"]: row["place"] for row in server.ledger.rows()}
    assert {name for name in fails if places.get(name, "").startswith(name.rstrip("s1"))} == set()
    server.eval("(spooled(), muled())")
    assert server.ledger.wait_one("a task in a spooler")["place"] == "spooler"
    in_mule = server.ledger.wait_one("a task in a mule")["place"] == "mule1"
    assert in_mule is (option == "shared-import")
