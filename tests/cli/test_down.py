"""The command line where no server runs: help, errors, exit codes, and a home at rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import pytest
from scripts import cli_reference

from tests.support.cli import environment, run_command

PATHS = [path.split()[1:] for path, _ in cli_reference.commands()]
APP = """
import os
from uwsgi_tasks import task

@task
def add(a, b):
    print("added", a + b)
    return a + b

@task
def fail(x):
    if not os.path.exists("fixed"):
        raise ValueError(f"bad {x}")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with an application, a spool, and a home that nobody serves."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "app.py").write_text(APP)
    (folder / "uwsgi.ini").write_text("[uwsgi]\nmaster = true\nspooler = %dspool\nmodule = app\n")
    (folder / "spool").mkdir(mode=0o700)
    code = "import app; from uwsgi_tasks import engine; engine.current().require_site()"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(UWSGITASKS_SPOOLER=str(folder / "spool")),
        check=True,
    )
    return folder


def call(home, *words):
    done = run_command("call", *words, cwd=home)
    assert done.code == 0, done.err
    return done.out.strip()


@pytest.fixture
def letter(home):
    """The id of a task that failed."""
    ident = call(home, "app.fail", "--args", "[1]")
    assert run_command("run", ident, "--settle", cwd=home).code == 1
    return ident


# help and errors


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_given_a_command_when_asked_for_help_then_it_tells_with_examples(path):
    done = run_command(*path, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: {' '.join(['uwsgi-tasks', *path])} ")
    assert "\nOptions:" in done.out
    assert "\nExamples:\n  uwsgi-tasks " in done.out
    assert done.err == ""


def test_given_python_m_when_run_then_it_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "uwsgi_tasks", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("uwsgi-tasks, version 1.")


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["lst"], "list"), (["dead", "retyr"], "retry"), (["schedules", "lists"], "list")],
)
def test_given_a_mistyped_command_when_run_then_it_says_what_was_meant(words, meant):
    done = run_command(*words)
    assert done.code == 2
    assert done.err.startswith("Error: there is no command")
    assert f"did you mean {meant!r}?" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--state", "sleeping"],
        ["call", "app.add", "--args", "1, 2"],
        ["call", "app.add", "--args", '{"a": 1}'],
        ["list", "--since", "yesterday"],
        ["call", "app.add", "--at", "soon"],
        ["show"],
        ["worker", "--queue", "=2"],
        ["dead", "retry"],
    ],
    ids=" ".join,
)
def test_given_a_wrong_command_line_when_run_then_it_ends_with_2(words, home):
    done = run_command(*words, cwd=home)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert "Try: uwsgi-tasks" in done.err


@pytest.mark.parametrize(
    "words",
    [["status"], ["list"], ["call", "app.add"], ["dead", "list"], ["pause"], ["top"], ["check"]],
    ids=" ".join,
)
def test_given_no_home_when_run_then_it_ends_with_3_and_says_what_to_try(words, tmp_path):
    done = run_command(*words, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("Error: ")
    assert "Try: " in done.err


def test_given_a_home_that_is_not_there_when_named_then_nothing_is_made(tmp_path):
    done = run_command("--home", tmp_path / "nowhere", "status")
    assert done.code == 3
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "words", [["show"], ["retry"], ["cancel"], ["dead", "show"], ["dead", "drop"], ["run"]]
)
def test_given_an_unknown_id_when_asked_for_then_it_ends_with_1(words, home):
    done = run_command(*words, "1764043200123456789-0123456789abcdef", cwd=home)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: ")


# which home


@pytest.mark.parametrize(
    "way",
    [
        lambda home: ((), {"cwd": home}),
        lambda home: (("--ini", home / "uwsgi.ini"), {}),
        lambda home: (("--home", home / "spool/.uwsgi_tasks"), {}),
        lambda home: (("--home", home / "spool"), {}),
        lambda home: ((), {"UWSGITASKS_HOME": str(home / "spool/.uwsgi_tasks")}),
        lambda home: ((), {"UWSGITASKS_SPOOLER": str(home / "spool")}),
    ],
    ids=["here", "ini", "home", "spool", "variable", "spooler"],
)
def test_given_a_way_to_name_a_home_when_asked_then_it_is_the_one(way, home):
    words, more = way(home)
    done = run_command(*words, "status", "--json", **more)
    assert done.json["home"] == str(home / "spool/.uwsgi_tasks")
    assert done.json["server_up"] is False


# what waits


def test_given_no_server_when_called_then_it_waits_and_is_listed(home):
    ident = call(home, "app.add", "--args", "[1, 2]", "--priority", "5")
    rows = {row["id"]: row for row in run_command("list", cwd=home).rows}
    assert (rows[ident]["state"], rows[ident]["task"]) == ("queued", "app.add")
    shown = run_command("show", ident, "--arguments", "--json", cwd=home).json
    assert (shown["arguments"], shown["priority"]) == ("(1, 2)", 5.0)
    assert run_command("cancel", ident, cwd=home).code == 0
    assert run_command("show", ident, "--json", cwd=home).json["state"] == "cancelled"


def test_given_a_delay_when_called_then_it_is_scheduled_and_purged(home):
    ident = call(home, "app.add", "--kwargs", '{"a": 1, "b": 2}', "--delay", "2h")
    rows = run_command("list", "--state", "scheduled", cwd=home).rows
    assert [(row["id"], row["reason"][:6]) for row in rows] == [(ident, "due in")]
    asked = run_command("purge", "--state", "scheduled", cwd=home, stdin="n\n")
    assert asked.code == 130
    done = run_command("purge", "--state", "scheduled", "--yes", "--json", cwd=home)
    assert done.json == {"removed": [ident]}


def test_given_a_call_that_waits_when_not_run_in_time_then_it_ends_with_1(home):
    done = run_command("call", "app.add", "--wait", "--timeout", "0.3", "--json", cwd=home)
    assert done.code == 1
    assert "still queued" in done.err
    run_command("purge", "--state", "queued", "--yes", cwd=home)


# what is dead


def test_given_a_dead_letter_when_listed_and_shown_then_its_story_is_told(letter, home):
    rows = {row["id"]: row for row in run_command("dead", "list", cwd=home).rows}
    assert rows[letter]["error"] == "ValueError: bad 1"
    shown = run_command("dead", "show", letter, cwd=home).out
    assert "ValueError: bad 1" in shown.splitlines()[-1]
    told = run_command("show", letter, cwd=home).out
    assert "Timeline" in told
    assert "Traceback" in told


def test_given_dead_letters_when_retried_by_task_then_they_wait_again(letter, home):
    done = run_command("dead", "retry", "--task", "app.fail", "--json", cwd=home)
    assert letter in [row["id"] for row in done.json if row["ok"]]
    assert run_command("show", letter, "--json", cwd=home).json["state"] == "queued"
    run_command("purge", "--state", "queued", "--yes", cwd=home)


def test_given_a_dead_letter_when_retried_by_its_id_then_it_waits_again(letter, home):
    assert run_command("retry", letter, cwd=home).out == f"{letter} is queued again\n"
    run_command("purge", "--state", "queued", "--yes", cwd=home)


def test_given_a_dead_letter_when_dropped_then_it_is_gone(letter, home):
    assert run_command("dead", "drop", letter, cwd=home).code == 0
    assert letter not in run_command("dead", "list", cwd=home).out


def test_given_dead_letters_when_purged_by_age_then_young_ones_stay(letter, home):
    done = run_command(
        "purge", "--state", "dead", "--older-than", "1d", "--yes", "--json", cwd=home
    )
    assert done.json == {"removed": []}


# run here


def test_given_a_task_that_waits_when_run_here_then_its_state_stays(home):
    ident = call(home, "app.add", "--args", "[3, 4]")
    done = run_command("run", ident, cwd=home)
    assert (done.code, done.out) == (0, "added 7\nok\n7\n")
    assert run_command("show", ident, "--json", cwd=home).json["state"] == "queued"
    run_command("cancel", ident, cwd=home)


def test_given_a_task_that_waits_when_run_here_to_settle_then_it_is_ok(home):
    ident = call(home, "app.add", "--args", "[3, 4]")
    assert run_command("run", ident, "--settle", cwd=home).code == 0
    assert run_command("show", ident, "--json", cwd=home).json["state"] == "ok"


def test_given_a_failure_when_run_with_pdb_then_the_debugger_stands_where_it_raised(letter, home):
    done = run_command("run", letter, "--pdb", cwd=home, stdin="p x + 41\nq\n")
    assert done.code == 1
    assert "(Pdb) 42" in done.out
    assert letter in run_command("dead", "list", cwd=home).out


def test_given_a_dead_letter_when_mended_and_run_to_settle_then_it_is_ok(letter, home):
    (home / "fixed").touch()
    try:
        assert run_command("run", letter, "--settle", cwd=home).code == 0
    finally:
        (home / "fixed").unlink()
    assert letter not in run_command("dead", "list", cwd=home).out
    assert run_command("show", letter, "--json", cwd=home).json["state"] == "ok"


# export and import


@pytest.fixture
def laptop(tmp_path):
    """Another machine with the same application, and a home of its own."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nmaster = true\nspooler = %dspool\n")
    (tmp_path / "spool").mkdir(mode=0o700)
    return tmp_path


@pytest.mark.parametrize("name", ["dead.zip", "dead"])
def test_given_an_export_when_imported_with_its_key_then_it_can_be_run_there(
    name, letter, home, laptop
):
    done = run_command("export", laptop / name, "--id", letter, cwd=home)
    assert (done.code, done.out) == (0, f"1 task written to {laptop / name}\n")
    refused = run_command("import", name, cwd=laptop)
    assert refused.code == 1
    assert "no known key signed it" in refused.err
    key = home / "spool/.uwsgi_tasks/key"
    assert run_command("import", name, "--accept-key", key, cwd=laptop).code == 0
    (story,) = run_command("dead", "list", "--json", cwd=laptop).json
    assert (story["id"], story["error"]) == (letter, "ValueError: bad 1")
    assert "ValueError: bad 1" in run_command("run", letter, cwd=laptop).err
    (laptop / "fixed").touch()
    assert run_command("run", letter, "--settle", cwd=laptop).code == 0


def test_given_an_export_when_looked_at_then_the_key_is_not_in_it(letter, home, tmp_path):
    run_command("export", tmp_path / "x.zip", cwd=home)
    key = (home / "spool/.uwsgi_tasks/key").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        assert f"{letter}.message" in file.namelist()
        assert not any(key in file.read(name) for name in file.namelist())
    assert os.stat(tmp_path / "x.zip").st_mode & 0o777 == 0o600


def test_given_an_export_that_was_changed_when_imported_then_it_is_refused(letter, home, tmp_path):
    run_command("export", tmp_path / "x", "--id", letter, cwd=home)
    message = tmp_path / "x" / f"{letter}.message"
    message.write_bytes(message.read_bytes()[:-1] + b"!")
    assert run_command("import", tmp_path / "x", cwd=home).code == 1


def test_given_a_file_that_is_no_export_when_imported_then_it_says_so(home):
    done = run_command("import", home / "app.py", cwd=home)
    assert done.code == 1
    assert "can't be read" in done.err


# a project


def test_given_a_flask_project_when_init_then_uwsgi_takes_its_file_strictly(tmp_path):
    (tmp_path / "shop.py").write_text("from flask import Flask\nsite = Flask(__name__)\n")
    done = run_command("init", cwd=tmp_path)
    assert done.code == 0
    assert "Found a Flask project (shop:site)" in done.out
    ini = tmp_path / "uwsgi.ini"
    assert "\nmodule = shop:site\n" in ini.read_text()
    ini.write_text(ini.read_text() + "version = true\n")
    uwsgi = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    assert subprocess.run([uwsgi, ini], env=environment(), capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("files", "kind", "line"),
    [
        (
            {"manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')"},
            "Django",
            "module = mysite.wsgi",
        ),
        (
            {"shop/__init__.py": "def create_app():\n    return Flask('x')\n"},
            "Flask",
            "create_app()",
        ),
        ({"web.py": "def application(environ, start_response):\n    pass\n"}, "WSGI", "= web\n"),
        ({"jobs.py": "from uwsgi_tasks import task\n"}, "Python", "import = jobs"),
        ({}, "Python", "import = tasks"),
    ],
)
def test_given_a_project_when_init_then_it_is_recognised(files, kind, line, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = run_command("init", "--json", cwd=tmp_path)
    assert done.json["kind"] == kind
    assert line in (tmp_path / "uwsgi.ini").read_text()


def test_given_an_ini_file_when_init_then_it_is_left_alone_unless_forced(tmp_path):
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nmodule = x\n")
    assert "add `ini = %duwsgi-tasks.ini`" in run_command("init", cwd=tmp_path).out
    assert (tmp_path / "uwsgi.ini").read_text() == "[uwsgi]\nmodule = x\n"
    assert run_command("init", cwd=tmp_path).code == 1
    assert run_command("init", "--force", cwd=tmp_path).code == 0
    assert (tmp_path / "uwsgi.ini.old").read_text() == "[uwsgi]\nmodule = x\n"


def test_given_init_when_told_to_show_then_nothing_is_written(tmp_path):
    assert "spooler = %dspool" in run_command("init", "--show", cwd=tmp_path).out
    assert list(tmp_path.iterdir()) == []


def test_given_what_init_wrote_when_checked_then_nothing_is_found(tmp_path):
    run_command("init", cwd=tmp_path)
    (tmp_path / "spool").mkdir(mode=0o700)
    done = run_command("check", "--json", cwd=tmp_path)
    ignored = ("UT-W012", "UT-W013")  # the machine's own
    assert [one for one in done.json["findings"] if one["id"] not in ignored] == []


# check


def test_given_a_bad_ini_file_when_checked_then_it_tells_id_sentence_and_line(tmp_path):
    (tmp_path / "uwsgi.ini").write_text(
        "[uwsgi]\nmaster = true\nspooler = %dspool\nspooler-frequency = 0\n"
    )
    done = run_command("check", cwd=tmp_path)
    assert done.code == 1
    assert "UT-E004 error: spooler-frequency = 0 counts as 0" in done.out
    assert "\n      spooler-frequency = 30\n" in done.out


def test_given_hints_alone_when_checked_then_the_exit_code_is_0(tmp_path):
    (tmp_path / "uwsgi.ini").write_text(
        "[uwsgi]\nmaster = true\nspooler = %dspool\nbinary-path = /x\n"
    )
    done = run_command("check", "--json", cwd=tmp_path)
    found = {one["severity"] for one in done.json["findings"]}
    assert (done.code, found) == (0, {"hint"})


def test_given_settings_when_shown_then_each_has_its_source_and_secrets_are_not_told(tmp_path):
    (tmp_path / "uwsgi.ini").write_text(
        "[uwsgi]\nset-ph = tasks-strict=true\nset-ph = tasks-secret=a very secret text\n"
    )
    done = run_command("check", "--show-config", "--json", cwd=tmp_path, UWSGITASKS_MAX_CRASHES="5")
    assert done.json["strict"] == {"value": True, "source": "uwsgi.ini: set-ph = tasks-strict"}
    assert done.json["max_crashes"] == {"value": 5, "source": "UWSGITASKS_MAX_CRASHES"}
    assert done.json["serializer"] == {"value": "pickle", "source": "default"}
    assert "a very secret text" not in done.out


def test_given_tasks_with_limits_when_imported_for_the_check_then_they_are_looked_at(tmp_path):
    (tmp_path / "jobs.py").write_text(
        "from uwsgi_tasks import task\n@task(timeout=90)\ndef long(): ...\n"
    )
    (tmp_path / "uwsgi.ini").write_text(
        "[uwsgi]\nmaster=true\nspooler=%dspool\nspooler-harakiri=60\n"
    )
    done = run_command("check", "--import", "jobs", "--json", cwd=tmp_path)
    sentences = {one["id"]: one["sentence"] for one in done.json["findings"]}
    assert "jobs.long may run 90 s" in sentences["UT-W003"]


# the rest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_given_a_shell_when_asked_for_completion_then_its_script_is_printed(shell):
    assert "_UWSGI_TASKS_COMPLETE" in run_command("completion", shell).out


def test_given_the_completion_when_a_shell_asks_then_commands_are_offered():
    done = run_command(
        COMP_WORDS="uwsgi-tasks re", COMP_CWORD="1", _UWSGI_TASKS_COMPLETE="bash_complete"
    )
    assert done.out.split() == ["plain,retry", "plain,resume", "plain,reload"]


def test_given_a_pause_when_resumed_then_the_status_tells(home):
    run_command("pause", cwd=home)
    assert run_command("status", "--json", cwd=home).json["paused"] is True
    assert "is paused" in run_command("check", cwd=home).out
    run_command("resume", cwd=home)
    assert run_command("status", "--json", cwd=home).json["paused"] is False


def test_given_a_queue_without_a_spool_of_its_own_when_paused_then_it_says_how_to_give_it_one(home):
    done = run_command("pause", "mail", cwd=home)
    assert (done.code, "queues=" in done.err) == (1, True)


def test_given_nothing_that_runs_when_drained_then_it_is_done_at_once(home):
    assert run_command("drain", "--timeout", "5", cwd=home).code == 0
    run_command("resume", cwd=home)


def test_given_no_fifo_when_told_to_reload_then_it_says_what_to_add(home):
    done = run_command("reload", cwd=home)
    assert done.code == 1
    assert "master-fifo" in done.err


def test_given_top_when_told_to_look_once_then_it_ends(home):
    done = run_command("top", "--count", "1", cwd=home)
    assert done.code == 0
    assert "server DOWN" in done.out


def test_given_json_when_read_then_its_keys_are_those_of_the_read_model(letter, home):
    from uwsgi_tasks.observe import RunInfo

    (run,) = run_command("list", "--limit", "1", "--json", cwd=home).json
    assert tuple(run) == RunInfo._fields
    assert json.dumps(run)
