"""The worker's parts that need no uWSGI: what it is told, what it gives uWSGI, what it watches."""

from __future__ import annotations

import os
import signal

import pytest

from uwsgi_tasks import worker
from uwsgi_tasks.worker import WorkerOptions, ini, process, watch
from uwsgi_tasks.worker.logs import LogPump
from uwsgi_tasks.worker.signals import Signals


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("UWSGITASKS_HOME", "UWSGITASKS_SPOOLER", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# what it is told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ()}, "nothing to run"),
        ({"targets": ("no/such.py",)}, "no file no/such.py"),
        ({"targets": ("a b",)}, "'a b' is no package.module"),
        ({"targets": ("a:b:c",)}, "is no package.module"),
        ({"targets": ("a..b",)}, "is no package.module"),
        ({"processes": 0}, "processes: 0 is too small"),
        ({"mules": -1}, "mules: -1 is too small"),
        ({"mules": 300}, "at most 256"),
        ({"max_tasks": 0}, "max_tasks"),
        ({"grace": -1.0}, "grace"),
        ({"queues": (("a/b", 1),)}, "queue 'a/b'"),
        ({"queues": (("a", 1), ("a", 2))}, "comes once"),
        ({"queues": (("a", 0),)}, "queue a: 0"),
        ({"reload": True, "once": True}, "exclude each other"),
    ],
)
def test_given_options_that_cant_be_meant_when_run_then_it_ends_with_2_and_says_why(
    capfd, changes, words
):
    assert worker.run_worker(WorkerOptions(("jobs",))._replace(**changes)) == 2
    assert words in capfd.readouterr().err


def test_given_a_file_whose_name_cant_be_imported_when_run_then_it_says_so(directory, capfd):
    (directory / "my-jobs.py").touch()
    assert worker.run_worker(WorkerOptions(("my-jobs.py",))) == 2
    assert "rename it" in capfd.readouterr().err


def test_given_a_setting_that_cant_be_meant_when_run_then_it_ends_with_2(monkeypatch, capfd):
    monkeypatch.setenv("UWSGITASKS_STRICT", "perhaps")
    assert worker.run_worker(WorkerOptions(("jobs",))) == 2
    assert "UWSGITASKS_STRICT" in capfd.readouterr().err


def test_given_no_uwsgi_when_run_then_it_ends_with_1_and_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setattr("uwsgi_tasks.worker.parent.find_uwsgi", lambda: None)
    assert worker.run_worker(WorkerOptions(("jobs",))) == 1
    assert "pip install 'uwsgi-tasks[server]'" in capfd.readouterr().err


def test_given_the_wheel_when_uwsgi_is_looked_for_then_it_is_the_module():
    assert process.find_uwsgi() == ()


def test_given_a_home_that_cant_be_made_when_run_then_it_ends_with_1(directory, capfd):
    (directory / "file").touch()
    assert worker.run_worker(WorkerOptions(("jobs",), home="file/home")) == 1
    assert "can't be used" in capfd.readouterr().err


# where things lie


@pytest.mark.parametrize(
    ("home", "variables", "expected"),
    [
        (None, {}, (".uwsgi-tasks", ".uwsgi-tasks/spool")),
        ("at", {}, ("at", "at/spool")),
        ("s/.uwsgi_tasks", {}, ("s/.uwsgi_tasks", "s")),
        (None, {"UWSGITASKS_HOME": "env"}, ("env", "env/spool")),
        ("at", {"UWSGITASKS_HOME": "env"}, ("at", "at/spool")),
        (None, {"UWSGITASKS_SPOOLER": "s"}, ("s/.uwsgi_tasks", "s")),
    ],
)
def test_given_a_home_when_laid_out_then_the_spool_lies_as_expected(
    directory, monkeypatch, home, variables, expected
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    layout = ini.layout_of(WorkerOptions(home=home, queues=(("mail", 2),)))
    wanted = tuple(str(directory / path) for path in expected)
    assert (layout.home, layout.spool) == wanted
    assert layout.queues == {"mail": f"{wanted[1]}-mail"}


# what uWSGI gets


def lines(**changes):
    options = WorkerOptions(("jobs",))._replace(**changes)
    layout = ini.layout_of(options)
    return ini.text_of(options, layout, "/venv/bin/python").splitlines(), layout


def test_given_processes_and_queues_when_written_then_each_spooler_has_a_line():
    found, layout = lines(processes=2, queues=(("mail", 3),))
    assert found.count(f"spooler = {layout.spool}") == 2
    assert found.count(f"spooler = {layout.spool}-mail") == 3


def test_given_nothing_special_when_written_then_nothing_could_listen():
    words = {line.partition(" ")[0] for line in lines(mules=3)[0]}
    assert not {word for word in words if "socket" in word or "http" in word or word == "stats"}


def test_given_limits_when_written_then_they_are_the_librarys_settings():
    found, _ = lines(max_tasks=5, max_rss=7)
    assert {"set-ph = tasks-max-tasks=5", "set-ph = tasks-max-rss=7"} <= set(found)


def test_given_a_percent_sign_in_a_path_when_written_then_uwsgi_takes_it_as_it_is():
    assert "%%d/spool" in "".join(lines(home="a%d")[0])


# logs


def test_given_lines_of_uwsgi_when_passed_on_then_only_others_are_left(capfd):
    reader, writer = os.pipe()
    os.write(writer, b"*** Starting uWSGI 2\nspawned uWSGI mule 1\nTask a.b started\nos: Linux\n")
    os.close(writer)
    pump = LogPump(os.fdopen(reader, "rb"), verbose=False)
    pump.run()
    assert capfd.readouterr().err == "Task a.b started\n"
    pump.tell_kept()
    assert capfd.readouterr().err.startswith("*** Starting uWSGI 2\n")


# watching


def test_given_files_when_nothing_happens_then_nothing_has_changed(directory):
    (directory / "a.py").touch()
    assert watch.Watcher([str(directory)]).changed() is None


@pytest.mark.parametrize("name", ["a.py", "pkg/b.py", "new.py"])
def test_given_a_source_file_when_it_changes_then_it_is_told_once(directory, name):
    (directory / "pkg").mkdir()
    for known in ("a.py", "pkg/b.py"):
        (directory / known).touch()
    watcher = watch.Watcher([str(directory)])
    (directory / name).write_text("x")
    os.utime(directory / name, (1, 1))
    assert watcher.changed() == str(directory / name)
    assert watcher.changed() is None


def test_given_a_source_file_when_it_goes_then_it_is_told(directory):
    (directory / "a.py").touch()
    watcher = watch.Watcher([str(directory)])
    (directory / "a.py").unlink()
    assert watcher.changed() == str(directory / "a.py")


@pytest.mark.parametrize("name", [".hidden/a.py", "venv/a.py", "node_modules/a.py", "a.txt"])
def test_given_other_files_when_they_change_then_nothing_is_told(directory, name):
    (directory / "venv").mkdir()
    (directory / "venv" / "pyvenv.cfg").touch()
    watcher = watch.Watcher([str(directory)])
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).touch()
    assert watcher.changed() is None


def test_given_targets_when_their_roots_are_asked_for_then_packages_elsewhere_are_among_them(
    directory, monkeypatch
):
    package = directory / "lib" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(directory / "lib")
    found = watch.roots_of(["shop.tasks:make", "other/x.py", "no_such_module"], "/cwd")
    assert found == ["/cwd", str(package), str(directory / "other")]


# signals


def test_given_signals_when_waited_for_then_they_come_one_by_one():
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert {signals.wait(5), signals.wait(5)} == {signal.SIGTERM, signal.SIGHUP}
        assert signals.wait(0) == 0
    assert signal.getsignal(signal.SIGTERM) == before
