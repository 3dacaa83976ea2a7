"""Django on a real server: the README's project layout, letters, and database connections.

Runs with whatever Django the interpreter has.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
from pathlib import Path

import pytest

import uwsgi_tasks
from tests.live import web
from tests.support.ledger import wait_until

pytest.importorskip("django")

SOURCE = str(Path(uwsgi_tasks.__file__).parents[1])

# The README's minimal configuration, its placeholders filled in; nothing added but the socket.
# Under pyuwsgi `env=` comes too late for os.environ, so the variable is also set outside.
README_LINES = (
    "http-socket = {dir}/web.sock",
    "processes=1",
    "workers=1",
    "module=django.core.wsgi:get_wsgi_application()",
    f"venv={sys.prefix}",
    "pythonpath={dir}",
    "env=DJANGO_SETTINGS_MODULE=my_project.settings",
    "spooler={dir}/spooler",
    "spooler-processes=2",
    "spooler-frequency=10",
)
ONLY_CALLBACKS = "from uwsgi_tasks import set_uwsgi_callbacks\n\nset_uwsgi_callbacks()\n"
WITH_SETUP = ONLY_CALLBACKS + "from uwsgi_tasks import django_setup\n\ndjango_setup()\n"
WITH_TIMERS = ONLY_CALLBACKS + ("\nfrom my_cron_tasks import *\nfrom my_timer_tasks import *\n")
TIMERS = """
from app_base import note
from uwsgi_tasks import *

@timer(seconds=0.3, iterations=2)
def print_every_5_seconds(signal_number):
    from my_project.apps.index.models import Letter
    note("timer", letters=Letter.objects.count())
"""
CRONS = """
from uwsgi_tasks import *

@cron(minute=-2)
def print_every_2_minutes(signal_number):
    pass
"""


def project(uwsgi, init, *lines):
    """Start the example with that ``my_project/__init__.py``."""
    server = web.serve(uwsgi, "django", *(lines or README_LINES), started=False)
    if init is not None:
        server._env["DJANGO_SETTINGS_MODULE"] = "my_project.settings"
    server._env["MAIL_DIR"] = str(server.dir / "mail")
    server._env["DATABASE"] = str(server.dir / "db.sqlite3")
    server.spool = server.dir / "spooler"
    server.home = server.spool / ".uwsgi_tasks"
    if init is not None:
        server.write("my_project/__init__.py", init)
    server.write("my_timer_tasks.py", TIMERS)
    server.write("my_cron_tasks.py", CRONS)
    manage(server, "migrate")
    return web.start(server)


def manage(server, *arguments):
    """Run one of Django's commands, as a shell outside of the server."""
    support = str(Path(__file__).parents[1] / "support")
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={
            **os.environ,
            **server._env,
            "PYTHONPATH": f"{SOURCE}:{support}",
            "TMPDIR": str(server.dir),
            "TEST_LEDGER": str(server.ledger.path),
        },
        cwd=server.dir,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def letters_to(server, address):
    """Return the letters that lie in the mail directory for an address."""
    texts = [path.read_text() for path in (server.dir / "mail").glob("*.log")]
    parts = [email.message_from_string(text) for text in texts]
    return [letter for letter in parts if letter["To"] == address]


def wait_letter_to(server, address):
    found = wait_until(lambda: letters_to(server, address), 10.0, f"a letter\n{server.log()}")
    assert len(found) == 1
    return found[0]


LAYOUTS = {
    "as in the README": (ONLY_CALLBACKS, README_LINES),
    "with spooler-import": (WITH_SETUP, (*README_LINES, "spooler-import=my_project")),
    "with django_setup": (WITH_SETUP, README_LINES),
    "with timers": (WITH_TIMERS, README_LINES),
    "lazy-apps, spooler-import": (
        WITH_SETUP,
        (*README_LINES, "lazy-apps=true", "spooler-import=my_project"),
    ),
}


@pytest.fixture(params=LAYOUTS)
def site(uwsgi, request):
    init, lines = LAYOUTS[request.param]
    return project(uwsgi, init, *lines)


@pytest.fixture(scope="module")
def example(module_uwsgi):
    """The example as it lies in the repository, with its own uwsgi.ini."""
    return project(module_uwsgi, None, *web.ini_lines("django"))


def test_given_a_project_when_a_page_calls_the_task_then_the_letter_is_sent_once(site):
    assert web.post(site, "/welcome", email="ann@example.com")["executor"] == "SPOOLER"
    assert wait_letter_to(site, "ann@example.com")["Subject"] == "Welcome!"


def test_given_no_callbacks_in_the_project_when_a_page_calls_the_task_then_it_warns(uwsgi):
    server = project(uwsgi, "")
    assert web.post(server, "/welcome", email="ann@example.com")["executor"] == "RUNTIME"
    assert "spooler-import" in server.wait_log("send_email_async asked for spooler")


def test_given_the_example_when_a_page_calls_the_task_then_the_letter_is_sent(example):
    web.post(example, "/welcome", email="bob@example.com")
    assert "Thank you!" in wait_letter_to(example, "bob@example.com").get_payload()


def test_given_the_example_when_the_task_wrote_to_the_database_then_a_page_sees_it(example):
    web.post(example, "/welcome", email="orm@example.com")
    wait_until(lambda: "orm@example.com" in web.get(example, "/letters"), 10.0, example.log())


def test_given_the_example_when_reloaded_then_letters_are_sent_again(uwsgi):
    server = project(uwsgi, None, *web.ini_lines("django"))
    server.reload()
    web.wait_up(server)
    web.post(server, "/welcome", email="again@example.com")
    wait_letter_to(server, "again@example.com")


def test_given_the_example_when_its_tests_run_then_they_pass_without_uwsgi(example):
    assert "OK" in manage(example, "test")


def test_given_timers_in_the_project_when_up_then_they_fire_and_reach_the_database(uwsgi):
    server = project(uwsgi, WITH_TIMERS)
    rows = server.ledger.wait("timer", count=2)
    assert [row["letters"] for row in rows] == [0, 0]


def test_given_a_command_outside_when_the_spool_is_named_then_the_server_sends_the_letter(uwsgi):
    server = project(uwsgi, ONLY_CALLBACKS)
    code = (
        "from my_project.apps.index.tasks import send_email_async as send;"
        "send('Hello', 'from a shell', 'shell@example.com')"
    )
    server._env["UWSGITASKS_SPOOLER"] = str(server.spool)
    manage(server, "shell", "-c", code)
    wait_letter_to(server, "shell@example.com")


# django_setup

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["package"]
USE_TZ = True
"""
SETUPS = {
    "nothing": "",
    "twice": "django_setup();",
    "django.setup": "import django; django.setup();",
    "settings": "from django.conf import settings; settings.DEBUG;",
    "apps": "from django.apps import apps;",
}


def plain(folder, code, **env):
    """Run code in a Python outside of any server."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{SOURCE}:{folder}", "TMPDIR": str(folder), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_settings(folder, init):
    (folder / "conf.py").write_text(SETTINGS)
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text(init)


READY = "from django.apps import apps as a; print(a.ready)"


@pytest.mark.parametrize("before", SETUPS)
def test_given_what_was_touched_before_when_set_up_then_the_apps_are_ready(tmp_path, before):
    write_settings(tmp_path, "")
    code = f"from uwsgi_tasks import django_setup; {SETUPS[before]} django_setup(); {READY}"
    assert plain(tmp_path, code, DJANGO_SETTINGS_MODULE="conf") == "True"


def test_given_a_settings_module_when_set_up_with_it_then_the_apps_are_ready(tmp_path):
    write_settings(tmp_path, "")
    code = f"from uwsgi_tasks import django_setup; django_setup('conf'); {READY}"
    assert plain(tmp_path, code) == "True"


def test_given_an_app_that_sets_up_itself_when_django_sets_up_then_they_are_ready(tmp_path):
    write_settings(tmp_path, "from uwsgi_tasks import django_setup; django_setup()")
    code = f"import django; django.setup(); {READY}"
    assert plain(tmp_path, code, DJANGO_SETTINGS_MODULE="conf") == "True"


# database connections

DATABASE = """
import os, uwsgi, django
from django.conf import settings

settings.configure(
    SECRET_KEY="x", USE_TZ=True,
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["TEST_DIR"], "db.sqlite3"),
        "CONN_MAX_AGE": MAX_AGE,
    }},
)
django.setup()

from django.db import connection
from uwsgi_tasks import task, TaskExecutor

def ask():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sqlite_master")
        return cursor.fetchone()[0]

ask()
MASTERS = connection.connection

@task(executor=TaskExecutor.SPOOLER)
def spooled(who):
    look("spooled", who)

@task(executor=TaskExecutor.MULE)
def muled(who):
    look("muled", who)

@task(executor=TaskExecutor.RUNTIME)
def in_place():
    return connection.connection

def look(event, who):
    before = connection.connection
    ask()
    note(event, who=who, opened=before is not None, masters=connection.connection is MASTERS,
         same=connection.connection is globals().get("LAST"))
    globals()["LAST"] = connection.connection

@task(executor=TaskExecutor.SPOOLER)
def spoil():
    ask()
    connection.close_at = 1.0
    globals()["LAST"] = connection.connection
    note("spoiled")

def worker_has_masters():
    ask()
    return connection.connection is MASTERS

def runtime_keeps_it():
    ask()
    connection.close_at = 1.0
    mine = connection.connection
    return in_place().result() is mine and connection.connection is mine
"""


@pytest.fixture(scope="module")
def database(module_uwsgi):
    return module_uwsgi("MAX_AGE = 60\n" + DATABASE, "mule = true")


@pytest.mark.parametrize("where", ["spooled", "muled"])
def test_given_a_connection_of_the_master_when_a_task_asks_then_it_has_its_own(
    database, where, tag
):
    database.call(where, tag)
    assert database.ledger.wait_one(where, who=tag)["masters"] is False


def test_given_a_connection_of_the_master_when_a_worker_asks_then_it_has_its_own(database):
    assert database.eval("worker_has_masters()") is False


def test_given_a_connection_that_may_age_when_the_next_task_asks_then_it_is_kept(uwsgi):
    server = uwsgi("MAX_AGE = 60\n" + DATABASE)
    server.call("spooled", "first")
    server.call("spooled", "second")
    rows = server.ledger.wait("spooled", count=2)
    assert [row["same"] for row in rows] == [False, True]


def test_given_a_connection_that_is_too_old_when_the_next_task_asks_then_it_is_new(uwsgi):
    server = uwsgi("MAX_AGE = 60\n" + DATABASE)
    server.call("spoil")
    server.ledger.wait("spoiled")
    server.call("spooled", "after")
    row = server.ledger.wait_one("spooled")
    assert (row["opened"], row["same"]) == (False, False)


def test_given_connections_that_may_not_age_when_the_next_task_asks_then_it_is_new(uwsgi):
    server = uwsgi("MAX_AGE = 0\n" + DATABASE)
    server.call("spooled", "first")
    server.call("spooled", "second")
    rows = server.ledger.wait("spooled", count=2)
    assert [row["opened"] for row in rows] == [False, False]


def test_given_a_runtime_task_when_it_runs_then_the_callers_connection_is_left_alone(database):
    assert database.eval("runtime_keeps_it()") is True


def test_given_a_killed_spooler_when_respawned_then_its_tasks_have_connections(uwsgi):
    server = uwsgi("MAX_AGE = 60\n" + DATABASE)
    server.call("spooled", "first")
    server.ledger.wait("spooled", count=1)
    server.wait_empty()
    server.kill(*server.pids("spooler"))
    server.call("spooled", "second")
    assert server.ledger.wait("spooled", count=2)[1]["masters"] is False
