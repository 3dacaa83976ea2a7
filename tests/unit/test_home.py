"""The home directory: who may use it, its key, what is announced in it, and its wake-up."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.fake_uwsgi import FakeUwsgi
from uwsgi_tasks import home
from uwsgi_tasks.errors import ConfigError, HomeError
from uwsgi_tasks.home import Home
from uwsgi_tasks.server import Outside

OLD, NEW = "the-old-secret-of-the-site", "the-new-secret-of-the-site"
SOURCE = str(Path(home.__file__).parents[1])


@pytest.fixture
def made(tmp_path):
    found = Home(str(tmp_path / ".uwsgi_tasks"))
    found.make()
    return found


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# made


@pytest.mark.parametrize("names", [(), ("dead",), ("announced",), ("hands",)], ids=str)
def test_given_a_loose_umask_when_made_then_its_directories_are_for_the_owner_only(tmp_path, names):
    before = os.umask(0)
    try:
        found = Home(str(tmp_path / "home"))
        found.make()
    finally:
        os.umask(before)
    assert mode(found.file(*names)) == 0o700


@pytest.mark.parametrize(
    "name", ["wake", "resumed", "key", "fingerprint", "flags", "timekeeper.lock"]
)
def test_given_a_loose_umask_when_used_then_its_files_are_for_the_owner_only(tmp_path, name):
    before = os.umask(0)
    try:
        found = Home(str(tmp_path / "home"))
        found.make()
        found.keys(())
        found.flags()
        os.close(found.lock_timekeeper())
    finally:
        os.umask(before)
    assert mode(found.file(name)) == 0o600


def test_given_a_home_when_made_again_then_nothing_changes(made):
    key = made.keys(())
    again = Home(made.path)
    again.make()
    assert again.keys(()) == key


def test_given_a_file_in_its_place_when_made_then_it_is_told(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeError, match="is there but is no directory"):
        Home(str(tmp_path / "home")).make()


def test_given_a_link_in_its_place_when_made_then_it_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "home")
    with pytest.raises(HomeError, match="no directory"):
        Home(str(tmp_path / "home")).make()


def test_given_no_directory_around_it_when_made_then_the_error_names_home_and_cure(tmp_path):
    with pytest.raises(HomeError, match=r"(?s)missing/home can't be used.*UWSGITASKS_HOME"):
        Home(str(tmp_path / "missing" / "home")).make()


def test_given_the_home_of_another_user_when_made_then_the_error_names_both(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    owner = os.stat(tmp_path / "home").st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4711)
    with pytest.raises(HomeError, match=f"belongs to uid {owner}, .* as {owner + 4711}"):
        Home(str(tmp_path / "home")).make()


# where


def test_given_a_configured_home_when_located_then_it_is_that(tmp_path):
    assert home.locate("/srv/home", Outside()) == ("/srv/home", True)


def test_given_no_server_when_located_then_there_is_none():
    assert home.locate(None, Outside()) is None


def test_given_spoolers_when_located_then_it_lies_in_the_first(tmp_path):
    server = FakeUwsgi(spoolers=["/srv/a", "/srv/b"]).server()
    assert home.locate(None, server) == ("/srv/a/.uwsgi_tasks", True)


def test_given_a_server_without_spooler_when_located_then_it_is_ephemeral():
    path, durable = home.locate(None, FakeUwsgi(mules=1).server())
    assert (f"uwsgi-tasks-{os.getuid()}-" in path, durable) == (True, False)


# keys


def test_given_a_new_home_when_asked_for_its_key_then_one_is_made_and_kept(made):
    key = made.keys(())
    assert (len(key[0]), Home(made.path).keys(())) == (64, key)


def test_given_threads_that_race_when_the_key_is_made_then_all_get_the_same(made):
    found, start = [], threading.Barrier(8)

    def work():
        start.wait()
        found.append(Home(made.path).keys(())[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(found), len(set(found))) == (8, 1)


def test_given_processes_that_race_when_the_key_is_made_then_all_get_the_same(tmp_path):
    code = (
        "import sys; from uwsgi_tasks.home import Home; h = Home(sys.argv[1]); sys.stdin.read();"
        " h.make(); print(h.keys(())[0].decode())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": SOURCE},
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.close()  # lets all of them go on
    found = []
    for process in processes:
        with process.stdout:
            found.append(process.stdout.read())
        assert process.wait() == 0
    assert len(set(found)) == 1


def test_given_the_same_secret_when_the_home_is_opened_again_then_it_is_accepted(made):
    made.keys((OLD,))
    assert Home(made.path).keys((OLD,)) == [OLD.encode()]


def test_given_another_secret_when_the_home_is_opened_then_the_cure_is_told(made):
    made.keys((OLD,))
    with pytest.raises(ConfigError, match=r"(?s)another key.*`secret`.*remove .*fingerprint"):
        Home(made.path).keys((NEW,))


def test_given_another_secret_when_refused_then_no_secret_is_shown(made):
    made.keys((OLD,))
    with pytest.raises(ConfigError) as caught:
        Home(made.path).keys((NEW,))
    assert OLD not in str(caught.value)
    assert NEW not in str(caught.value)


def test_given_a_generated_key_when_a_secret_is_set_then_the_change_is_told(made):
    made.keys(())
    with pytest.raises(ConfigError, match="another key"):
        made.keys((NEW,))


def test_given_the_old_secret_in_the_list_when_rotated_then_both_are_keys(made):
    made.keys((OLD,))
    assert made.keys((NEW, OLD)) == [NEW.encode(), OLD.encode()]


def test_given_a_rotated_key_when_adopted_then_the_old_one_may_be_left_out(made):
    made.keys((OLD,))
    made.adopt_key(made.keys((NEW, OLD))[0])
    assert Home(made.path).keys((NEW,)) == [NEW.encode()]


def test_given_a_secret_when_used_then_no_file_of_the_home_shows_it(made):
    made.keys((OLD,))
    files = [path for path in Path(made.path).rglob("*") if path.is_file()]
    assert [path for path in files if OLD.encode() in path.read_bytes()] == []


def test_given_an_empty_key_file_when_opened_then_it_is_refused(made):
    Path(made.file("key")).write_bytes(b"")
    with pytest.raises(HomeError, match="is empty"):
        made.keys(())


def test_given_a_key_when_made_then_no_temporary_file_is_left(made):
    made.keys(())
    assert sorted(os.listdir(made.path)) == [
        "announced",
        "dead",
        "fingerprint",
        "hands",
        "key",
        "resumed",
        "wake",
    ]


# announced


@pytest.fixture
def other(made):
    """The same home, as another process has it open."""
    return Home(made.path)


def test_given_a_word_when_announced_twice_then_it_is_announced(made, other):
    made.announce("spooler-1")
    made.announce("spooler-1")
    assert (other.is_announced("spooler-1"), other.is_announced("spooler-2")) == (True, False)


# the wake-up


def test_given_a_wake_up_when_the_timekeeper_looks_then_it_finds_it(made, other):
    descriptor = made.open_fifo()
    other.wake_timekeeper()
    assert os.read(descriptor, 10) == b"w"


def test_given_nobody_who_reads_when_woken_very_often_then_it_never_blocks(made):
    for _ in range(100_000):
        made.wake_timekeeper()
    assert len(os.read(made.open_fifo(), 100)) == 100


def test_given_the_ephemeral_home_of_a_dead_master_when_cleaned_then_it_is_removed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    names = [f"uwsgi-tasks-{os.getuid()}-{pid}-1" for pid in (os.getpid(), 2**22 + 1)]
    for name in names:
        (tmp_path / name).mkdir()
    home.remove_stale_ephemeral("")
    assert os.listdir(tmp_path) == names[:1]
