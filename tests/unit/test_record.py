"""What a server tells of itself, and what a process outside makes of it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time

import pytest

import uwsgi_tasks
from tests.support.fake_uwsgi import FakeUwsgi
from uwsgi_tasks import engine, record, task
from uwsgi_tasks.config import Settings
from uwsgi_tasks.errors import ConfigError, HomeError, MessageTooBig, NotAvailable, OptionValueError
from uwsgi_tasks.home import NAME, Home
from uwsgi_tasks.model import TaskExecutor
from uwsgi_tasks.server import Outside
from uwsgi_tasks.site import Site
from uwsgi_tasks.store import Store

from .children import Child, forks

RAN = []


@task(working_dir=None)
def work(*args):
    RAN.append(args)


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()
    yield
    assert RAN == []


@pytest.fixture
def told(tmp_path):
    """Let a server with two spools leave its record; return its home."""
    root = tmp_path / "volume"
    spools = [root / "one", root / "two"]
    for spool in spools:
        spool.mkdir(parents=True)

    def tell(**changes):
        fake = FakeUwsgi(spoolers=spools, mules=1)
        fake.pids[:] = [os.getpid()] * 2
        home = Home(str(spools[0] / NAME))
        Site(home, ())
        settings = Settings(queues=(("mail", str(spools[1])),), **changes)
        record.write(home, fake.server(), settings)
        return home.path

    return tell


def outside(home, **settings):
    """Make this process one that no server started, and that knows a home."""
    engine.reset(engine.Engine(Outside(), {"home": str(home), **settings}))


def spooled(home, name="one"):
    return sorted(
        entry
        for entry in os.listdir(os.path.join(home, "..", "..", name))
        if entry.startswith("uwsgi_spoolfile_on_")
    )


# the record


def test_given_a_server_when_it_told_then_the_record_says_what_it_is(told):
    found = record.read(told())
    assert (found.format, found.spoolers, found.workers, found.master) == (1, 2, 2, os.getpid())
    assert [os.path.basename(spool) for spool in found.spools] == ["one", "two"]
    assert found.options == {}
    assert found.queues == {"mail": found.spools[1]}


def test_given_a_record_when_it_is_looked_at_then_it_is_for_its_owner_alone(told):
    assert os.stat(os.path.join(told(), "server.json")).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("changes", "is_written"), [({}, False), ({"max_tasks": 3}, False)])
def test_given_a_record_when_nothing_in_it_changed_then_it_stays(told, changes, is_written):
    path = os.path.join(told(), "server.json")
    before = os.stat(path).st_ino
    told(**changes)
    assert (os.stat(path).st_ino != before) is is_written


def test_given_a_record_when_a_limit_changed_then_it_is_written_anew(told):
    told()
    assert record.read(told(max_message_bytes=5)).max_message_bytes == 5


def test_given_a_home_without_a_record_when_read_then_there_is_none(tmp_path):
    assert record.read(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "\0"])
def test_given_a_broken_record_when_read_then_the_error_names_the_cure(told, text):
    home = told()
    with open(os.path.join(home, "server.json"), "w") as file:
        file.write(text)
    with pytest.raises(HomeError, match=r"server\.json can't be read.*restart the server"):
        record.read(home)


def test_given_a_record_of_a_newer_version_when_used_then_it_is_refused_by_name(told):
    home = told()
    path = os.path.join(home, "server.json")
    with open(path) as file:
        values = json.load(file)
    with open(path, "w") as file:
        json.dump({**values, "format": 2, "version": "9.9"}, file)
    outside(home)
    for use in (work, uwsgi_tasks.dead.list, uwsgi_tasks.control.busy):
        with pytest.raises(HomeError, match=r"written by uwsgi-tasks 9\.9, which is newer"):
            use()


def test_given_a_newer_record_when_a_server_starts_then_it_tells_of_itself(told):
    home = told()
    with open(os.path.join(home, "server.json"), "w") as file:
        file.write('{"format": 2}')
    assert record.read(told()).format == record.FORMAT


# calls from outside


@pytest.mark.parametrize("named", ["home", "spool"])
def test_given_a_home_when_a_task_is_called_then_it_is_queued_for_its_server(told, named):
    home = told()
    outside(home if named == "home" else os.path.dirname(home))
    handle = work(1)
    assert (handle.executor, handle.status()) == (TaskExecutor.SPOOLER, "queued")
    assert len(spooled(home)) == 1
    assert (handle.cancel(), spooled(home)) == (True, [])


@pytest.mark.parametrize("executor", ["auto", "spooler", "mule"])
def test_given_any_executor_but_runtime_when_called_then_the_spooler_gets_it(told, executor):
    home = told()
    outside(home)
    work.options(executor=executor)()
    assert len(spooled(home)) == 1


def test_given_a_queue_of_the_server_when_called_then_its_own_spool_gets_it(told):
    home = told()
    outside(home)
    work.options(queue="mail")()
    assert (len(spooled(home)), len(spooled(home, "two"))) == (0, 1)


def test_given_another_spool_of_the_server_when_named_then_that_one_gets_it(told):
    home = told()
    outside(home)
    work.options(spooler=record.read(home).spools[1])()
    assert len(spooled(home, "two")) == 1
    with pytest.raises(OptionValueError, match="no spooler of this server"):
        work.options(spooler="/nowhere")()


def test_given_a_volume_that_is_mounted_elsewhere_when_called_then_its_place_there_is_used(
    told, tmp_path
):
    moved = tmp_path / "mounted"
    theirs = record.read(told()).spools
    shutil.move(tmp_path / "volume", moved)
    home = moved / "one" / NAME
    outside(home)
    work.options(queue="mail")()
    assert len(spooled(home, "two")) == 1
    work.options(at=time.time() + 100)()
    row = Store(str(home / "store.db")).due(time.time() + 200, 10, mules=True)[0]
    assert row.spool == theirs[0]


def test_given_a_server_that_tells_anew_when_called_then_the_new_record_counts(told):
    home = told()
    outside(home)
    work()
    told(max_message_bytes=20)
    with pytest.raises(MessageTooBig, match="20"):
        work("x" * 30)


def test_given_a_limit_of_the_callers_own_when_called_then_that_one_counts(told):
    outside(told(max_message_bytes=20), max_message_bytes=100)
    work("x" * 30)


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda path: str(path / "nowhere"), "There is no home .*UWSGITASKS_HOME"),
        (lambda path: str(path), "No server has told yet .*start it once"),
    ],
)
def test_given_a_home_that_nobody_serves_when_called_then_the_error_names_the_cure(
    tmp_path, make, cure
):
    outside(make(tmp_path))
    with pytest.raises(NotAvailable, match=cure):
        work()
    assert not (tmp_path / "nowhere").exists()


def test_given_a_server_without_a_spooler_when_called_then_the_error_names_the_line(tmp_path):
    home = Home(str(tmp_path))
    Site(home, ())
    record.write(home, FakeUwsgi(mules=1).server(), Settings())
    outside(tmp_path)
    with pytest.raises(HomeError, match=r"has no spooler.*add `spooler = "):
        work()


def test_given_spools_that_arent_there_when_called_then_the_error_says_to_mount_them(
    told, tmp_path
):
    home = tmp_path / "home"
    shutil.copytree(told(), home, ignore=lambda *_: ["wake", "resumed"])
    shutil.rmtree(tmp_path / "volume")
    outside(home)
    with pytest.raises(HomeError, match="aren't there: mount"):
        work()


def test_given_another_key_when_called_then_it_is_refused(told):
    outside(told(), secret=("another key of the caller",))
    with pytest.raises(ConfigError, match="another key"):
        work()


def test_given_runtime_as_the_setting_when_called_then_it_runs_here(told):
    outside(told(), executor="runtime")
    assert work().executor == TaskExecutor.RUNTIME
    RAN.clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call for another user")
def test_given_root_when_it_calls_for_a_server_of_another_user_then_all_is_that_users(spool):
    os.chown(spool, 65534, 65534)
    engine.reset(engine.Engine(Outside(), {"spooler": spool}))
    work.options(at=time.time() + 100)()
    work.options(priority=1)()
    work()
    made = [path for path, _, _ in os.walk(spool)]
    made += [os.path.join(path, name) for path, _, names in os.walk(spool) for name in names]
    others = [path for path in made if os.stat(path).st_uid != 65534]
    assert [path for path in others if "/announced/" not in path] == []


# whether the server lives


def test_given_no_server_when_two_are_called_then_one_warning_tells(told, caplog):
    outside(told())
    work()
    work()
    assert [r.levelno for r in caplog.records if "No server serves" in r.message] == [
        logging.WARNING
    ]


@forks
def test_given_a_server_when_called_then_no_warning_tells(told, caplog):
    home = told()

    def serve():
        file = open(os.path.join(home, "timekeeper.lock"), "w")  # noqa: SIM115
        fcntl.lockf(file, fcntl.LOCK_EX)
        serve.file = file

    outside(home)
    with Child(serve):
        assert record.is_up(home)
        work()
    assert not record.is_up(home)
    assert caplog.records == []
