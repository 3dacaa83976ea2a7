"""How a function is named and found again."""

from __future__ import annotations

import functools
import sys

import pytest

from uwsgi_tasks import paths


class Shop:
    @staticmethod
    def sell():
        pass

    def __call__(self):
        pass


def top():
    pass


def outer():
    def inner():
        pass

    return inner


def test_given_a_function_of_a_module_when_named_then_it_is_module_and_name():
    assert paths.name_of(top) == f"{__name__}.top"


def test_given_a_function_of_a_class_when_named_then_the_class_is_in_its_name():
    assert paths.name_of(Shop.sell) == f"{__name__}.Shop.sell"


@pytest.mark.parametrize(
    ("name", "expected"), [("a.b.c", "a.b"), ("a.b", "a"), ("a", ""), ("", "")]
)
def test_given_a_name_when_asked_for_its_module_then_it_is_all_but_the_last_word(name, expected):
    assert paths.module_of(name) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (top, None),
        (Shop.sell, None),
        (lambda: 1, "it is a lambda"),
        (outer(), "it is defined inside another function"),
        (functools.partial(top), "it has no name of its own"),
        (Shop(), "it has no name of its own"),
    ],
    ids=["function", "in a class", "lambda", "nested", "partial", "callable object"],
)
def test_given_a_callable_when_asked_why_it_cannot_be_found_then_this_is_told(function, expected):
    assert paths.why_unreachable(function) == expected


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A folder on the path; its modules are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_given_a_module_that_is_not_imported_when_its_task_is_wanted_then_it_is(library):
    (library / "pathsshop.py").write_text("")
    paths.import_module_of("pathsshop.sell")
    assert "pathsshop" in sys.modules


def test_given_a_task_in_a_class_when_wanted_then_the_module_around_it_is_imported(library):
    (library / "pathsclass.py").write_text("class Shop: pass")
    paths.import_module_of("pathsclass.Shop.Inner.sell")
    assert "pathsclass" in sys.modules


def test_given_a_module_that_is_gone_when_its_task_is_wanted_then_it_is_not_found(library):
    with pytest.raises(ModuleNotFoundError, match="pathsgone"):
        paths.import_module_of("pathsgone.tasks.sell")


def test_given_a_module_that_misses_another_when_imported_then_the_missing_one_is_named(library):
    (library / "pathsneedy.py").write_text("import pathsmissing")
    with pytest.raises(ModuleNotFoundError) as caught:
        paths.import_module_of("pathsneedy.sell")
    assert caught.value.name == "pathsmissing"


def test_given_a_module_that_fails_when_imported_then_its_own_error_is_seen(library):
    (library / "pathsbroken.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        paths.import_module_of("pathsbroken.sell")
