"""The examples in the library's docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import uwsgi_tasks
from uwsgi_tasks import engine

MODULES = ["uwsgi_tasks"] + [
    found.name for found in pkgutil.walk_packages(uwsgi_tasks.__path__, "uwsgi_tasks.")
]


@pytest.fixture(autouse=True)
def nothing_configured():
    yield
    engine.reset()


@pytest.mark.parametrize("name", MODULES)
def test_given_a_module_when_its_examples_run_then_they_give_what_they_show(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_given_the_public_decorators_when_read_then_each_has_an_example():
    public = [uwsgi_tasks.task, uwsgi_tasks.timer, uwsgi_tasks.cron]
    assert [found.__name__ for found in public if ">>>" not in (found.__doc__ or "")] == []
