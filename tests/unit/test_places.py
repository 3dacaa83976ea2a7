"""What a message may make this process import, and which home a spool has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.fake_uwsgi import FakeUwsgi
from uwsgi_tasks import engine
from uwsgi_tasks.errors import UnknownTask
from uwsgi_tasks.model import TaskSpec
from uwsgi_tasks.site import Site


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that nobody imported yet; importing it leaves a file."""
    folder = tmp_path / "path"
    (folder / "fresh").mkdir(parents=True)
    (folder / "fresh" / "__init__.py").write_text("")
    lines = [
        "import pathlib",
        f"pathlib.Path({str(tmp_path / 'imported')!r}).touch()",
        "from uwsgi_tasks import task",
        "@task",
        "def work(): pass",
    ]
    (folder / "fresh" / "tasks.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder)
    yield tmp_path / "imported"
    for name in [name for name in sys.modules if name.partition(".")[0] == "fresh"]:
        del sys.modules[name]


def resolve(name="fresh.tasks.work"):
    return engine.current().resolve(name)


# what may be imported


def test_given_a_task_of_an_unknown_package_when_resolved_then_nothing_of_it_is_imported(
    fake, package
):
    fake()
    with pytest.raises(UnknownTask, match=r"'fresh\.tasks\.work'.*set allowed_packages"):
        resolve()
    assert not package.exists()


@pytest.mark.parametrize("allowed", [("fresh",), ("other", "fresh"), ("*",)])
def test_given_allowed_packages_when_resolved_then_the_module_is_imported(fake, package, allowed):
    fake(settings={"allowed_packages": allowed})
    assert (resolve().name, package.exists()) == ("fresh.tasks.work", True)


@pytest.mark.parametrize("allowed", [("fres",), ("fresh.tasks",), ("fresher",), ("tasks",)])
def test_given_packages_of_other_names_when_resolved_then_it_is_refused(fake, package, allowed):
    fake(settings={"allowed_packages": allowed})
    with pytest.raises(UnknownTask):
        resolve()
    assert not package.exists()


def test_given_a_package_that_the_application_imported_when_resolved_then_its_module_is(
    fake, package
):
    import fresh  # type: ignore[import-not-found]  # noqa: F401

    fake()
    assert (resolve().name, package.exists()) == ("fresh.tasks.work", True)


def test_given_a_registered_task_of_the_package_when_resolved_then_its_module_is_imported(
    fake, package
):
    fake()
    engine.registry.add(TaskSpec("fresh.other.task", print))
    assert resolve().name == "fresh.tasks.work"


def test_given_a_caller_of_this_home_that_knows_the_package_when_resolved_then_it_is_imported(
    fake, package
):
    fake()
    site = engine.current().require_site()
    Site(site.home, ()).note_package("fresh.tasks.work")  # the caller is another process
    assert resolve().name == "fresh.tasks.work"


def test_given_a_home_that_a_caller_may_not_write_to_when_noted_then_the_call_goes_on(
    fake, monkeypatch
):
    def refuse(word):
        raise PermissionError(13, "Permission denied")

    fake()
    site = engine.current().require_site()
    monkeypatch.setattr(site.home, "announce", refuse)
    site.note_package("fresh.tasks.work")
    assert site.knows_package("fresh") is False


@pytest.mark.parametrize("name", ["os.system", "subprocess.call", "antigravity.fly", "shutil.x"])
def test_given_a_function_of_python_itself_when_resolved_then_it_is_no_task(fake, name):
    before = name.partition(".")[0] in sys.modules
    fake()
    with pytest.raises(UnknownTask):
        resolve(name)
    assert (name.partition(".")[0] in sys.modules) is before


def test_given_a_module_of_a_loaded_package_of_python_when_resolved_then_it_is_not_imported(fake):
    fake()
    assert "encodings" in sys.modules
    sys.modules.pop("encodings.rot_13", None)
    with pytest.raises(UnknownTask):
        resolve("encodings.rot_13.rot13")
    assert "encodings.rot_13" not in sys.modules


def test_given_a_name_of_an_allowed_module_that_is_no_task_when_resolved_then_it_is_refused(
    fake, package
):
    fake(settings={"allowed_packages": ("fresh",)})
    with pytest.raises(UnknownTask):
        resolve("fresh.tasks.pathlib.Path.rmdir")


@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/passwd", "a\nb.c", "x" * 5000])
def test_given_a_name_that_is_none_when_resolved_then_it_is_unknown(fake, name):
    fake()
    with pytest.raises(UnknownTask):
        resolve(name)


@pytest.mark.parametrize("name", ["../escape.task", "/etc/passwd.x", "x" * 400 + ".y"])
def test_given_a_package_that_is_a_path_when_noted_then_it_stays_in_the_home(
    fake, spool, tmp_path, name
):
    fake()
    site = engine.current().require_site()
    before = {str(path) for path in tmp_path.rglob("*")}
    site.note_package(name)
    made = {str(path) for path in tmp_path.rglob("*")} - before
    assert all(Path(path).parent == Path(site.home.file("announced")) for path in made)


# which home


def test_given_a_spool_of_another_instance_when_asked_for_its_site_then_it_has_its_own_key(
    tmp_path,
):
    paths = [str(tmp_path / name) for name in ("own", "external")]
    [Path(path).mkdir() for path in paths]
    server = FakeUwsgi(spoolers=paths, spooler_external=paths[1].encode())
    server.module.opt["spooler"] = paths[0].encode()
    this = engine.Engine(server.server(), {})
    own, external = (this.require_site(path) for path in paths)
    assert own is this.require_site()
    assert (own.home.path, external.home.path) == tuple(f"{p}/.uwsgi_tasks" for p in paths)
    assert own.keys != external.keys


def test_given_two_own_spools_when_asked_for_their_sites_then_they_share_one(tmp_path):
    paths = [str(tmp_path / name) for name in ("one", "two")]
    [Path(path).mkdir() for path in paths]
    this = engine.Engine(FakeUwsgi(spoolers=paths).server(), {})
    assert this.require_site(paths[0]) is this.require_site(paths[1])


def test_given_bounds_in_the_settings_when_a_site_opens_then_its_letters_have_them(fake):
    fake(settings={"dead_max_count": 5, "dead_max_bytes": 6, "dead_max_age": 7.0})
    assert engine.current().require_site().letters.bounds == (5, 6, 7.0)


def test_given_a_matter_when_it_comes_up_again_then_it_is_told_once_per_task(fake):
    fake()
    this = engine.current()
    asked = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")]
    assert [this.first_time(*pair) for pair in asked] == [True, False, True, True]
