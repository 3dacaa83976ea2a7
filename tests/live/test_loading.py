"""How tasks and the library's hooks come to be there in each process."""

from __future__ import annotations

import pytest

from tests.support.server import RemoteError

APP = """
import uwsgi
from uwsgi_tasks import set_uwsgi_callbacks, task, TaskExecutor

SPOOLER, MULE = TaskExecutor.SPOOLER, TaskExecutor.MULE

@task(executor=SPOOLER)
def spooled(who):
    note("spooled", who=who, place=place())

@task(executor=MULE)
def muled(who):
    note("muled", who=who, place=place())

def hooks():
    return [getattr(uwsgi, name, None) for name in ("spooler", "mule_msg_hook", "post_fork_hook")]

def installs_twice():
    before = hooks()
    set_uwsgi_callbacks()
    set_uwsgi_callbacks()
    return before == hooks() and None not in before

def plain(): pass

def decorate_nested():
    def nested(): pass
    return task(nested)

def decorate_nested_timer():
    from uwsgi_tasks import timer
    def nested(): pass
    return timer(seconds=5)(nested)

class Thing:
    def method(self): pass

async def coroutine(): pass

async def generator():
    yield 1
"""

IMPORTS_LATER = """
def call_late():
    import late.tasks
    return late.tasks.late_task("x")

def call_package():
    import late
    return late.root_task("x")

def call_broken():
    from uwsgi_tasks import task, TaskExecutor
    return task(name="broken.thing", executor=TaskExecutor.SPOOLER)(application)()
"""
LATE = {
    "late/__init__.py": """
from app_base import note
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def root_task(who):
    note("root", who=who)
""",
    "late/tasks.py": """
from app_base import note
from uwsgi_tasks import task, TaskExecutor
note("imported")

@task(executor=TaskExecutor.SPOOLER)
def late_task(who):
    note("late", who=who)

class Mailer:
    @staticmethod
    @task(executor=TaskExecutor.SPOOLER)
    def send(who):
        note("static", who=who)
""",
    "broken.py": "raise RuntimeError('half written')\n",
}


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP, "mule = true")


# hooks


def test_given_the_hooks_when_installed_again_then_they_are_the_same(shared):
    assert shared.eval("installs_twice()") is True


def test_given_an_import_alone_when_a_task_is_called_then_it_runs_in_the_spooler(shared, tag):
    shared.call("spooled", tag)
    assert shared.ledger.wait_one("spooled", who=tag)["place"] == "spooler"


def test_given_an_import_alone_when_a_task_is_called_then_it_runs_in_the_mule(shared, tag):
    shared.call("muled", tag)
    assert shared.ledger.wait_one("muled", who=tag)["place"] == "mule1"


BUNDLED_BEFORE = "import uwsgidecorators\n" + APP
BUNDLED_TASK = """
import uwsgidecorators

@uwsgidecorators.spool
def bundled(env):
    note("bundled", body=env["body"])
    return uwsgi.SPOOL_OK

@uwsgidecorators.mulefunc
def bundled_mule(who):
    note("bundled_mule", who=who)

def call_bundled(who):
    bundled.spool({b"body": who.encode()})
"""


@pytest.fixture(scope="module", params=["before", "after and installed again"])
def with_bundled(module_uwsgi, request):
    if request.param == "before":
        return module_uwsgi(BUNDLED_BEFORE + BUNDLED_TASK, "mule = true")
    return module_uwsgi(APP + BUNDLED_TASK + "set_uwsgi_callbacks()\n", "mule = true")


def test_given_bundled_decorators_when_our_task_is_called_then_it_runs(with_bundled, tag):
    with_bundled.call("spooled", tag)
    with_bundled.call("muled", tag)
    with_bundled.ledger.wait_one("spooled", who=tag)
    with_bundled.ledger.wait_one("muled", who=tag)


def test_given_bundled_decorators_when_their_task_is_spooled_then_it_is_theirs(with_bundled, tag):
    with_bundled.call("call_bundled", tag)
    with_bundled.ledger.wait_one("bundled", body=tag)
    with_bundled.wait_empty()


def test_given_bundled_decorators_when_their_mule_task_is_called_then_it_is_theirs(
    with_bundled, tag
):
    with_bundled.call("bundled_mule", tag)
    with_bundled.ledger.wait_one("bundled_mule", who=tag)


def test_given_hooks_that_were_overwritten_when_called_then_it_warns_and_names_the_cure(uwsgi):
    server = uwsgi(APP + "import uwsgidecorators\n")
    server.call("spooled", "x")
    assert "set_uwsgi_callbacks" in server.wait_log("overwritten")


OWN_HOOKS = """
import uwsgi

def own_spooler(env):
    note("own_spooler", body=env["body"].decode())
    return uwsgi.SPOOL_OK

uwsgi.spooler = own_spooler
uwsgi.mule_msg_hook = lambda message: note("own_mule", message=message.decode())
uwsgi.post_fork_hook = lambda: note("own_fork", place=place())
"""
SPOOL_BY_HAND = """
def by_hand(who):
    uwsgi.spool({b"body": who.encode()})
    uwsgi.mule_msg(who.encode())
"""


def test_given_hooks_that_were_there_when_messages_arent_ours_then_they_get_them(uwsgi):
    server = uwsgi(OWN_HOOKS + APP + SPOOL_BY_HAND, "mule = true")
    server.call("by_hand", "x")
    server.ledger.wait_one("own_spooler", body="x")
    server.ledger.wait_one("own_mule", message="x")


def test_given_a_fork_hook_that_was_there_when_processes_start_then_it_runs_in_each(uwsgi):
    server = uwsgi(OWN_HOOKS + APP, "mule = true")
    rows = server.ledger.wait("own_fork", count=3)
    assert {row["place"] for row in rows} == {"worker", "mule1", "spooler"}


# where functions live


def test_given_a_module_that_the_spooler_never_imported_when_called_then_it_runs_once(uwsgi):
    server = uwsgi(IMPORTS_LATER, files=LATE)
    server.call("call_late")
    server.ledger.wait_one("late", who="x")
    server.wait_empty()
    assert len(server.ledger.rows("late")) == 1


def test_given_a_package_that_the_spooler_never_imported_when_called_then_it_runs(uwsgi):
    server = uwsgi(IMPORTS_LATER, "spooler-import = app_base", files=LATE)
    server.call("call_package")
    server.ledger.wait_one("root", who="x")


def test_given_a_task_in_a_class_when_called_then_it_runs(uwsgi):
    server = uwsgi("import late.tasks\n" + APP, files=LATE)
    server.eval("late.tasks.Mailer.send('x')")
    server.ledger.wait_one("static", who="x")


def test_given_a_module_that_cant_be_imported_when_the_grace_is_over_then_it_is_dead(uwsgi):
    server = uwsgi(APP + IMPORTS_LATER, "set-ph = tasks-unknown-grace=0.3", files=LATE)
    server.call("call_broken")
    letter = server.wait_letter()
    assert "half written" in letter["error"] + letter["traceback"]


WSGI_FILE = APP.replace("place=place()", "place=place(), module=__name__")


@pytest.mark.parametrize("lines", [(), ("lazy-apps = true",)])
def test_given_a_wsgi_file_when_its_task_is_called_then_it_runs_once(uwsgi, lines):
    name = "uwsgi_file_site"
    server = uwsgi(
        "",
        "wsgi-file = site.py",
        "chdir = {dir}",
        *lines,
        module="",
        env={"TEST_APP": name},
        files={"site.py": "from app_base import *\n" + WSGI_FILE},
    )
    server.call("spooled", "x")
    assert server.ledger.wait_one("spooled")["module"] == name


def test_given_a_task_in_main_when_called_then_it_runs_once(uwsgi):
    server = uwsgi(
        "",
        "pyrun = {dir}/main.py",
        "need-app = false",
        module="",
        http=False,
        files={"main.py": "from app_base import *\n" + APP + "\nspooled('main')\n"},
        ready="spawned the uWSGI spooler",
    )
    assert server.ledger.wait_one("spooled")["who"] == "main"


def test_given_a_script_outside_when_it_calls_a_task_of_its_main_then_it_runs_once(uwsgi, shell):
    script = "from app_base import *\n" + APP.replace("import uwsgi\n", "")
    server = uwsgi(
        "import uwsgi_tasks\n",
        files={"script.py": script + "\nif __name__ == '__main__': spooled('x')\n"},
    )
    code = "import os, runpy; runpy.run_path(os.environ['TEST_DIR'] + '/script.py', {}, '__main__')"
    shell(server, code)
    assert server.ledger.wait_one("spooled")["who"] == "x"


# what can't be a task


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("decorate_nested()", "inside another function"),
        ("decorate_nested_timer()", "inside another function"),
        ("task(lambda: None)", "lambda"),
        ("task(Thing().method)", "bound method"),
        ("task(coroutine)", "async"),
        ("task(generator)", "async"),
        ("task(42)", "function"),
    ],
)
def test_given_what_cant_be_a_task_when_decorated_then_the_error_says_why(shared, code, said):
    with pytest.raises(RemoteError, match=said) as caught:
        shared.eval(code)
    assert "UwsgiTasksError" in caught.value.kinds


def test_given_a_nested_function_with_a_name_when_decorated_then_it_is_taken(shared):
    assert shared.eval("task(name='app.nested')(lambda: None).name") == "app.nested"
