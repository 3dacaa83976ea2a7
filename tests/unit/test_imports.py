"""What ``import uwsgi_tasks`` costs, and what it gives."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import uwsgi_tasks

PACKAGE = Path(uwsgi_tasks.__file__).parent
HEAVY = [
    "asyncio",
    "click",
    "concurrent.futures",
    "cronsim",
    "dataclasses",
    "django",
    "flask",
    "importlib.metadata",
    "inspect",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "subprocess",
    "unittest",
    "urllib.request",
    "zoneinfo",
]
README = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "CronTask",
    "RetryTaskException",
    "SignalTask",
    "Task",
    "TaskExecutor",
    "TimerTask",
    "cron",
    "cron_lazy",
    "django_setup",
    "get_current_task",
    "set_uwsgi_callbacks",
    "task",
    "timer",
    "timer_lazy",
]
OTHER_PATHS = {
    "uwsgi_tasks.tasks": ["BaseTask", "MuleTask", "RuntimeTask", "SpoolerTask", "task"],
    "uwsgi_tasks.timers": ["OneTimeTask", "CronTask", "TimerTask"],
    "uwsgi_tasks.decorators": ["cron", "cron_lazy", "task", "timer", "timer_lazy"],
    "uwsgi_tasks.utils": ["django_setup"],
}


def python(code):
    """Run code in a Python that has nothing loaded yet; return what it printed, line by line."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "UWSGI"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**env, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def loaded():
    """Every module that the import brought in."""
    code = "import sys; before = set(sys.modules); import uwsgi_tasks"
    return set(python(f"{code}; print(*sorted(set(sys.modules) - before), sep='\\n')"))


@pytest.mark.parametrize("name", HEAVY)
def test_given_the_import_when_done_then_what_is_heavy_was_not_loaded(loaded, name):
    assert name not in loaded


def test_given_the_import_when_done_then_nothing_third_party_was_loaded(loaded):
    roots = {name.partition(".")[0] for name in loaded}
    assert roots - set(sys.stdlib_module_names) == {"uwsgi_tasks"}


def test_given_all_names_when_imported_then_each_is_there():
    assert [name for name in uwsgi_tasks.__all__ if not hasattr(uwsgi_tasks, name)] == []


def test_given_all_names_when_compared_with_what_is_public_then_none_is_missing_or_too_many():
    modules = {path.stem for path in PACKAGE.iterdir()}
    public = {name for name in vars(uwsgi_tasks) if not name.startswith("_")}
    imported, exported = {"TYPE_CHECKING", "Any", "annotations"}, {"control", "dead", "schedules"}
    assert public - modules - imported | exported == set(uwsgi_tasks.__all__)


def test_given_all_names_when_listed_then_none_comes_twice():
    assert len(uwsgi_tasks.__all__) == len(set(uwsgi_tasks.__all__))


def test_given_a_star_import_when_done_then_the_documented_names_are_there():
    found = python("from uwsgi_tasks import *; print(*dir(), sep='\\n')")
    assert set(README) <= set(found)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in OTHER_PATHS.items() for name in names]
)
def test_given_the_paths_of_the_old_release_when_imported_then_the_name_is_there(path, name):
    assert hasattr(importlib.import_module(path), name)


@pytest.mark.parametrize(
    ("name", "number"), [("AUTO", 1), ("SPOOLER", 2), ("MULE", 3), ("RUNTIME", 4)]
)
def test_given_an_executor_when_asked_for_its_number_then_it_is_that_of_the_old_release(
    name, number
):
    assert uwsgi_tasks.TaskExecutor[name] == number


@pytest.mark.parametrize(("name", "code"), [("OK", -2), ("RETRY", -1), ("IGNORE", 0)])
def test_given_a_code_when_asked_then_it_is_uwsgis_own(name, code):
    assert getattr(uwsgi_tasks, f"SPOOL_{name}") == code


def test_given_every_error_when_caught_then_the_root_catches_it():
    errors = importlib.import_module("uwsgi_tasks.errors")
    kinds = [getattr(errors, name) for name in errors.__all__]
    outside = [kind for kind in kinds if not issubclass(kind, uwsgi_tasks.UwsgiTasksError)]
    assert outside == [
        uwsgi_tasks.RetryTaskException,
        uwsgi_tasks.SoftTimeout,
        uwsgi_tasks.TaskCancelled,
    ]


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("ConfigError", ValueError),
        ("OptionError", TypeError),
        ("OptionValueError", ValueError),
        ("ArgumentsError", TypeError),
        ("NotAvailable", RuntimeError),
        ("QueueFull", RuntimeError),
        ("MessageTooBig", ValueError),
        ("WireError", ValueError),
        ("SignatureError", ValueError),
        ("UnknownTask", LookupError),
        ("HomeError", OSError),
        ("SoftTimeout", TimeoutError),
    ],
)
def test_given_an_error_when_caught_by_its_standard_kind_then_that_catches_it(name, standard):
    assert issubclass(getattr(uwsgi_tasks, name), standard)


def test_given_an_attribute_that_is_not_there_when_asked_then_it_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        uwsgi_tasks.nothing  # noqa: B018
