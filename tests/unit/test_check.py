"""Checks: each finds what it is for, and nothing where it isn't."""

from __future__ import annotations

import os
import re
import stat

import pytest

from uwsgi_tasks import check, engine, home
from uwsgi_tasks.check import directories, gather, running
from uwsgi_tasks.check.ini import read
from uwsgi_tasks.model import Limits, TaskSpec

GOOD = (
    "http-socket = 127.0.0.1:8080\nmodule = app\nmaster = true\nspooler = %dspool\n"
    "spooler-ordered = true\nbinary-path = /venv/bin/python\nmaster-fifo = %dfifo\n"
    "die-on-term = true\nstrict = true\n"
)


@pytest.fixture
def facts(tmp_path, monkeypatch):
    """Return the facts of an ini file with these lines beside good ones, or in their place."""
    for name in [name for name in os.environ if name.startswith("UWSGITASKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(gather, "_is_pyuwsgi_in_venv", lambda: True)
    monkeypatch.setattr(gather, "known_options", lambda: frozenset(KNOWN))
    monkeypatch.setattr(directories, "file_system", lambda path: "ext4")
    (tmp_path / "spool").mkdir(mode=0o700)

    def gather_them(lines="", *, without=(), good=GOOD, **more):
        kept = [line for line in good.split("\n") if line.split(" ")[0] not in without]
        (tmp_path / "uwsgi.ini").write_text("[uwsgi]\n" + "\n".join([*kept, lines]) + "\n")
        return check.of_files(str(tmp_path / "uwsgi.ini"), **more)

    yield gather_them
    engine.reset()


KNOWN = ["http-socket", "module", "master", "spooler", "spooler-ordered", "binary-path"]
KNOWN += ["master-fifo", "die-on-term", "strict", "spooler-frequency", "mule", "lazy-apps"]


def found(facts):
    return {finding.id: finding for finding in check.examine(facts)}


CASES = [  # id, lines that have it, good lines that are left out, lines that don't have it
    ("UT-E001", "", ("master", "spooler", "spooler-ordered", "master-fifo"), ""),
    ("UT-E002", "", ("binary-path",), ""),
    ("UT-E003", "lazy-apps = true", (), "lazy-apps = true\nshared-import = app"),
    ("UT-E003", "lazy-apps = 1\nmule = 1\nspooler-import = app", (), "lazy-apps = off"),
    ("UT-E004", "spooler-frequency = 0.5", (), "spooler-frequency = 1"),
    ("UT-E005", "mount = /a=a.py\nmount = /b=b.py", (), "mount = /a=a.py"),
    ("UT-E005", "mount = /a=a\nmount = /b=b", (), "mount = a\nmount = b\nsingle-interpreter=1"),
    ("UT-E006", "py-call-uwsgi-fork-hooks = true\nmule = true", (), "mule = true"),
    ("UT-E007", "mule = true\nfarm = mail:1,2", (), "mules = 2\nfarm = mail:1,2"),
    ("UT-E008", "set-ph = tasks-durability=dsk", (), "set-ph = tasks-durability=disk"),
    ("UT-E009", 'set-ph = tasks-queues={"mail": "/nowhere"}', (), "set-ph = tasks-queues={}"),
    ("UT-W001", "mule = true", ("spooler",), "mule = true"),
    ("UT-W001", "", ("spooler",), "spooler-external = /other"),
    ("UT-W002", "spooler-processes=1\nspooler-processes=4", (), "spooler-processes = 4"),
    ("UT-W004", "touch-chain-reload = /x", (), "touch-reload = /x"),
    ("UT-W004", "touch-spoolers-reload = /x", (), ""),
    ("UT-W005", "attach-daemon = redis-server", (), "attach-daemon = exec redis-server"),
    ("UT-W005", "attach-daemon2 = cmd=redis,freq=3", (), "attach-daemon2 = cmd=exec redis"),
    ("UT-W006", "mule-msg-size = 65536", (), "mule-msg-size = 8388608"),
    ("UT-W007", "spooler-cheap = 1", ("strict",), "set-ph = x=1\nname = y\nmodule = %(name)"),
    ("UT-W008", "set-ph = tasks-strit=1", (), "set-ph = tasks-strict=1"),
    ("UT-W009", "env = UWSGITASKS_STRICT=1", (), "env = LANG=C.UTF-8"),
    ("UT-W010", "socket = 0.0.0.0:3031", (), "socket = 127.0.0.1:3031\nsocket = /x.sock"),
    ("UT-W010", "socket = :3031", (), "socket = :3031\nset-ph = tasks-secret=a long enough secret"),
    ("UT-H001", "", ("spooler-ordered",), ""),
    ("UT-H002", "spooler-max-tasks = 100", (), "set-ph = tasks-max-tasks=100"),
    ("UT-H003", "", ("master-fifo",), ""),
    ("UT-H004", "", ("die-on-term",), ""),
    ("UT-H005", "", ("strict",), ""),
    ("UT-H006", "http = :8080", (), "http = :8080\nsocket = /x.sock"),
]


@pytest.mark.parametrize(("ident", "lines", "without", "other"), CASES)
def test_given_an_ini_file_when_examined_then_the_check_finds_what_is_there(
    ident, lines, without, other, facts
):
    assert ident in found(facts(lines, without=without))
    assert ident not in found(facts(other))


def test_given_a_wrong_variable_when_examined_then_it_is_named(facts, monkeypatch):
    monkeypatch.setenv("UWSGITASKS_STRICT", "perhaps")
    assert found(facts())["UT-E008"].sentence.startswith("UWSGITASKS_STRICT: strict=")


def test_given_no_ini_file_when_examined_then_options_are_not_missed(facts):
    facts()
    assert found(check.of_files()) == {}


def test_given_a_good_ini_file_when_examined_then_nothing_is_found(facts):
    assert found(facts()) == {}


def test_given_a_timeout_above_harakiri_when_examined_then_it_names_the_task(facts):
    engine.registry.add(TaskSpec("shop.import_all", print, limits=Limits(120.0)))
    try:
        sentence = found(facts("spooler-harakiri = 60"))["UT-W003"].sentence
        assert "shop.import_all may run 120 s" in sentence
        assert "UT-W003" not in found(facts("spooler-harakiri = 600"))
    finally:
        engine.registry.specs.pop("shop.import_all")


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_given_a_spool_in_memory_when_examined_then_it_is_found(kind, facts, monkeypatch):
    assert "UT-W012" not in found(facts())
    monkeypatch.setattr(directories, "file_system", lambda path: kind)
    assert "UT-W012" in found(facts())


def test_given_a_spool_on_nfs_when_examined_then_it_is_found(facts, monkeypatch):
    assert "UT-E010" not in found(facts())
    monkeypatch.setattr(directories, "file_system", lambda path: "nfs4")
    assert "UT-E010" in found(facts())


def test_given_the_mounts_when_a_path_is_looked_up_then_the_longest_point_tells(
    tmp_path, monkeypatch
):
    mounts = tmp_path / "mounts"
    inner = tmp_path / "with space"
    inner.mkdir()
    shown = str(inner).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {shown} nfs4 rw 0 0\n")
    monkeypatch.setattr(directories, "MOUNTS", str(mounts))
    assert directories.file_system(str(inner / "spool")) == "nfs4"
    assert directories.file_system(str(tmp_path)) == "ext4"


def test_given_a_full_disk_when_examined_then_it_is_found(facts, monkeypatch):
    assert "UT-W013" not in found(facts())
    real = os.statvfs("/")
    full = os.statvfs_result((*real[:4], 10, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert "UT-W013" in found(facts())


def test_given_a_spool_that_others_read_when_examined_then_it_is_found(facts, tmp_path):
    (tmp_path / "spool").chmod(0o755)
    finding = found(facts())["UT-W014"]
    assert finding.cure == f"run `chmod o-rwx {tmp_path}/spool`"


def test_given_a_spool_of_another_user_when_examined_then_it_is_found(facts, tmp_path):
    uid = os.stat(tmp_path / "spool").st_uid
    assert "UT-E011" not in found(facts(f"uid = {uid}"))
    assert "UT-E011" in found(facts(f"uid = {uid + 1}"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_given_a_spool_that_is_not_writable_when_examined_then_it_is_found(facts, tmp_path):
    assert "UT-E012" not in found(facts())
    (tmp_path / "spool").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "UT-E012" in found(facts())


def test_given_other_files_in_a_spool_when_examined_then_one_is_named(facts, tmp_path):
    assert "UT-H007" not in found(facts())
    (tmp_path / "spool" / "notes.txt").touch()
    assert "notes.txt" in found(facts())["UT-H007"].sentence


def test_given_a_module_with_uwsgidecorators_when_examined_then_it_is_named(facts, tmp_path):
    (tmp_path / "app.py").write_text("import os\n")
    assert "UT-W011" not in found(facts())
    (tmp_path / "app.py").write_text("import os\nfrom uwsgidecorators import *\n")
    assert f"{tmp_path}/app.py" in found(facts())["UT-W011"].sentence


# a home in use


@pytest.fixture
def site(tmp_path, facts):
    facts()
    engine.configure(spooler=str(tmp_path / "spool"))
    site = engine.current().require_site()
    assert site.inflight
    return site


def test_given_a_pause_when_examined_then_it_is_found(site, facts):
    assert "UT-W015" not in found(facts())
    site.home.pause(True)
    assert "UT-W015" in found(facts())


def test_given_dead_letters_when_examined_then_they_are_counted(site, facts, tmp_path):
    assert "UT-W016" not in found(facts())
    (tmp_path / "spool/.uwsgi_tasks/dead/x.json").write_text("{}")
    assert found(facts())["UT-W016"].sentence.startswith("1 dead letter lies there")


def test_given_a_server_without_a_timekeeper_when_examined_then_it_is_found(
    site, facts, monkeypatch
):
    (lock := site.home.file("timekeeper.lock"), open(lock, "w").close())
    assert "UT-E013" not in found(facts())
    monkeypatch.setattr(running, "is_up", lambda facts: True)
    assert "UT-E013" in found(facts())


def test_given_another_key_when_examined_then_it_is_found(site, facts):
    assert "UT-E014" not in found(facts())
    assert "UT-E014" in found(facts("set-ph = tasks-secret=another one that is long"))


def test_given_a_home_of_a_secret_when_examined_without_it_then_it_is_found(site, facts):
    os.unlink(site.home.file("key"))
    assert "UT-E014" in found(facts())


def test_given_tasks_and_no_server_when_examined_then_they_are_counted(site, facts, tmp_path):
    assert "UT-W017" not in found(facts())
    (tmp_path / "spool" / "uwsgi_spoolfile_on_x").touch()
    assert found(facts())["UT-W017"].sentence.startswith("1 task waits")


def test_given_a_store_of_a_newer_release_when_examined_then_it_is_found(site, facts):
    connection = site.store.connection()
    assert "UT-E015" not in found(facts())
    connection.execute("PRAGMA user_version = 99")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert "UT-E015" in found(facts())


# the table


def test_given_the_table_when_read_then_ids_are_of_one_form_and_in_use():
    assert all(re.fullmatch(r"UT-[EWH]\d{3}", ident) for ident in check.CHECKS)
    assert home.NAME == ".uwsgi_tasks"


# the ini file


def options_of(tmp_path, text, name="uwsgi.ini", **variables):
    (tmp_path / name).write_text(text)
    return read(str(tmp_path / name), variables.get)


def test_given_magic_and_placeholders_when_read_then_they_are_replaced(tmp_path):
    options = options_of(
        tmp_path,
        "[uwsgi]\nset-ph = name=shop\nspooler = %dspool\nmodule=%(name).wsgi\nx = $(HERE)/%n.%e\n"
        "y = 100%%\nz = %(unknown)\n",
        HERE="/srv",
    )
    assert options.last("spooler") == f"{tmp_path}/spool"
    assert options.last("module") == "shop.wsgi"
    assert options.last("x") == "/srv/uwsgi.ini"
    assert options.last("y") == "100%"
    assert options.last("z") == "%(unknown)"


def test_given_repeated_keys_and_flags_when_read_then_all_are_there(tmp_path):
    options = options_of(tmp_path, "[uwsgi]\nspooler=a\n spooler = b \nmaster\nlazy = off\n")
    assert options.all("spooler") == ["a", "b"]
    assert options.has("master")
    assert not options.has("lazy")


def test_given_comments_and_sections_when_read_then_only_its_own_lines_count(tmp_path):
    text = "[other]\nx=1\n[uwsgi]\n;x=2\n#x=3\nx=4 ; not a comment\nini = :other\n"
    assert options_of(tmp_path, text).all("x") == ["4 ; not a comment", "1"]


def test_given_another_file_when_named_then_it_is_read_in_its_place(tmp_path):
    (tmp_path / "base.ini").write_text("[uwsgi]\nmaster = true\nspooler = %dx\n")
    options = options_of(tmp_path, "[uwsgi]\nini = %dbase.ini\nspooler = y\nini = /not/there.ini\n")
    assert options.all("spooler") == [f"{tmp_path}/x", "y"]
    assert "/not/there.ini can't be read" in options.notes[0]


def test_given_a_file_that_names_itself_when_read_then_it_ends(tmp_path):
    options = options_of(tmp_path, "[uwsgi]\nini = %p\nx = 1\n")
    assert "round in circles" in options.notes[0]


def test_given_conditions_and_loops_when_read_then_they_hold(tmp_path):
    text = (
        "[uwsgi]\nif-env = DEV\nx = dev\nendif =\nif-not-env = DEV\nx = live\nendif =\n"
        "for = a b\nspooler = /s/%(_)\nendfor =\nif-exists = %p\ny = 1\nendif =\n"
        "if-opt = y\nz = 1\nendif =\n"
    )
    options = options_of(tmp_path, text, DEV="1")
    assert options.all("x") == ["dev"]
    assert options.all("spooler") == ["/s/a", "/s/b"]
    assert options.all("y", "z") == ["1", "1"]


def test_given_numbers_when_read_then_they_are_taken_as_uwsgi_takes_them(tmp_path):
    options = options_of(tmp_path, "[uwsgi]\na=0.5\nb=12s\nc=x\n")
    assert [options.number(name) for name in "abcd"] == [0, 12, 0, None]
