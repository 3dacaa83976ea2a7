"""The working directory of a run, and the connections of Django."""

from __future__ import annotations

import os
import sys
import types

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import middleware
from uwsgi_tasks.model import Run, TaskExecutor

SPOOLER, MULE, RUNTIME = TaskExecutor.SPOOLER, TaskExecutor.MULE, TaskExecutor.RUNTIME


def where(path, executor, *, asked=False):
    """Return the directory in which a task with that working_dir runs."""
    run = Run(a_message(working_dir=str(path), working_dir_asked=asked), executor, 0.0)
    return middleware.in_working_dir(run, lambda run: os.getcwd())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The directory before the run; another one, to run in, lies beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("executor", "asked", "expected"),
    [
        (SPOOLER, False, "there"),
        (SPOOLER, True, "there"),
        (MULE, False, "there"),
        (MULE, True, "there"),
        (RUNTIME, False, "here"),
        (RUNTIME, True, "there"),
    ],
)
def test_given_a_working_dir_when_run_then_the_task_is_in_it(here, executor, asked, expected):
    assert where(here.parent / "there", executor, asked=asked) == str(here.parent / expected)


@pytest.mark.parametrize("executor", [SPOOLER, MULE, RUNTIME])
def test_given_no_working_dir_when_run_then_it_is_left_alone(here, executor):
    assert where("", executor, asked=True) == str(here)


def test_given_a_working_dir_in_the_caller_when_the_run_is_over_then_the_one_before_is_back(here):
    where(here.parent / "there", RUNTIME, asked=True)
    assert os.getcwd() == str(here)


def test_given_a_working_dir_in_the_caller_when_the_run_raises_then_the_one_before_is_back(here):
    there = str(here.parent / "there")
    run = Run(a_message(working_dir=there, working_dir_asked=True), RUNTIME, 0.0)
    with pytest.raises(ZeroDivisionError):
        middleware.in_working_dir(run, lambda run: 1 / 0)
    assert os.getcwd() == str(here)


@pytest.mark.parametrize("executor", [SPOOLER, MULE])
def test_given_the_callers_directory_that_is_gone_when_run_then_it_runs_with_one_warning(
    here, caplog, executor
):
    found = [where("/gone/away", executor) for _ in range(2)]
    assert found == [str(here)] * 2
    (record,) = caplog.records
    assert "/gone/away" in record.getMessage()
    assert "working_dir=None" in record.getMessage()


@pytest.mark.parametrize("executor", [SPOOLER, MULE, RUNTIME])
def test_given_an_asked_directory_that_is_gone_when_run_then_it_fails_and_names_it(here, executor):
    with pytest.raises(FileNotFoundError, match=r"working_dir can't be entered.*/gone/away"):
        where("/gone/away", executor, asked=True)


def test_given_no_django_when_run_then_nothing_of_it_is_looked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "django.db", raising=False)
    run = Run(a_message(), SPOOLER, 0.0)
    assert middleware.with_django_connections(run, lambda run: "result") == "result"


@pytest.fixture
def django_db(monkeypatch):
    """A stand-in for django.db that notes when old connections are closed."""
    module = types.SimpleNamespace(closed=[], close_old_connections=lambda: module.closed.append(1))
    monkeypatch.setitem(sys.modules, "django.db", module)
    return module


@pytest.mark.parametrize(("executor", "times"), [(SPOOLER, 2), (MULE, 2), (RUNTIME, 0)])
def test_given_django_when_run_then_old_connections_are_closed_around_it(
    django_db, executor, times
):
    middleware.with_django_connections(Run(a_message(), executor, 0.0), lambda run: None)
    assert len(django_db.closed) == times


def test_given_django_that_is_not_set_up_when_run_then_the_task_runs(django_db):
    def fail():
        raise RuntimeError("not configured")

    django_db.close_old_connections = fail
    run = Run(a_message(), SPOOLER, 0.0)
    assert middleware.with_django_connections(run, lambda run: "result") == "result"


def test_given_connections_over_a_fork_when_dropped_then_they_are_forgotten_and_not_closed(
    django_db, monkeypatch
):
    monkeypatch.setattr(middleware, "_inherited", [])
    wrapper = types.SimpleNamespace(connection=object())
    inherited = wrapper.connection
    listed = types.SimpleNamespace(all=lambda initialized_only: [wrapper])
    django_db.connections = listed
    middleware.drop_inherited_connections()
    assert (wrapper.connection, middleware._inherited) == (None, [inherited])
