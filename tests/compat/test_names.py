"""Names that code written for release 0.7.3 imports."""

from __future__ import annotations

import importlib

import pytest

import uwsgi_tasks

TOP = [
    "Task",
    "SignalTask",
    "TimerTask",
    "CronTask",
    "TaskExecutor",
    "set_uwsgi_callbacks",
    "RetryTaskException",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "SPOOL_IGNORE",
    "get_current_task",
    "django_setup",
    "task",
    "timer",
    "timer_lazy",
    "cron",
    "cron_lazy",
]
MODULES = {
    "uwsgi_tasks.tasks": [
        "BaseTask",
        "SpoolerTask",
        "MuleTask",
        "RuntimeTask",
        "OneTimeTask",
        "SignalTask",
        "TimerTask",
        "CronTask",
        "Task",
        "TaskExecutor",
        "RetryTaskException",
        "SPOOL_OK",
        "SPOOL_RETRY",
        "SPOOL_IGNORE",
        "get_current_task",
        "set_uwsgi_callbacks",
    ],
    "uwsgi_tasks.decorators": [
        "task",
        "timer",
        "timer_lazy",
        "cron",
        "cron_lazy",
        "Task",
        "TimerTask",
        "CronTask",
        "TaskExecutor",
    ],
    "uwsgi_tasks.utils": ["django_setup"],
}


@pytest.mark.parametrize("name", TOP)
def test_given_an_old_name_when_imported_from_the_package_then_it_is_there(name):
    assert getattr(uwsgi_tasks, name) is not None


@pytest.mark.parametrize("name", TOP)
def test_given_a_star_import_when_done_then_the_old_name_came_with_it(name):
    names: dict = {}
    exec("from uwsgi_tasks import *", names)
    assert name in names


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in MODULES.items() for name in names]
)
def test_given_an_old_module_when_a_name_is_imported_from_it_then_it_is_there(module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("module", ["tasks", "decorators", "utils"])
def test_given_the_package_alone_when_imported_then_its_old_modules_are_attributes(module):
    importlib.import_module(f"uwsgi_tasks.{module}")
    assert getattr(uwsgi_tasks, module).__name__ == f"uwsgi_tasks.{module}"


# As release 0.7.3 tells them when it is asked.
@pytest.mark.parametrize(
    ("name", "number"), [("AUTO", 1), ("SPOOLER", 2), ("MULE", 3), ("RUNTIME", 4)]
)
def test_given_an_executor_when_compared_with_its_old_number_then_they_are_equal(name, number):
    assert getattr(uwsgi_tasks.TaskExecutor, name) == number


@pytest.mark.parametrize(
    ("name", "number"), [("SPOOL_OK", -2), ("SPOOL_RETRY", -1), ("SPOOL_IGNORE", 0)]
)
def test_given_a_code_when_compared_with_its_old_number_then_they_are_equal(name, number):
    assert getattr(uwsgi_tasks, name) == number


@pytest.mark.parametrize("name", ["Task", "TimerTask", "CronTask", "SignalTask", "BaseTask"])
def test_given_an_old_class_when_looked_up_twice_then_it_is_one_and_the_same(name):
    old = importlib.import_module("uwsgi_tasks.tasks")
    assert getattr(old, name) is getattr(uwsgi_tasks, name, getattr(old, name))
