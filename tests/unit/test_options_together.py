"""Options beside each other: what contradicts, and what they come to."""

from __future__ import annotations

import pytest

from uwsgi_tasks import options
from uwsgi_tasks.errors import OptionValueError
from uwsgi_tasks.model import UNLIMITED, Limits, TaskExecutor
from uwsgi_tasks.options import Options


def changed(**values):
    return options.change(Options(), values, "shop.send", call=False)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"timeout": 5, "soft_timeout": 5}, "soft_timeout=5 has to be shorter than timeout=5"),
        ({"timeout": 5, "soft_timeout": 9}, "soft_timeout=9 has to be shorter than timeout=5"),
        ({"durability": "memory", "executor": "spooler"}, "use executor=MULE or AUTO"),
        ({"durability": "disk", "executor": "mule"}, "use executor=SPOOLER or AUTO"),
    ],
)
def test_given_options_that_contradict_each_other_when_checked_then_both_and_the_cure_are_named(
    values, told
):
    with pytest.raises(OptionValueError, match=rf"Task shop\.send: .*{told}"):
        changed(**values)


@pytest.mark.parametrize(
    ("before", "values"),
    [
        (Options(timeout=5.0), {"soft_timeout": 6}),
        (Options(soft_timeout=6.0), {"timeout": 5}),
        (Options(executor=TaskExecutor.MULE), {"durability": "disk"}),
        (Options(durability="memory"), {"executor": TaskExecutor.SPOOLER}),
    ],
    ids=str,
)
def test_given_an_option_that_contradicts_the_decorator_when_said_at_a_call_then_it_is_refused(
    before, values
):
    with pytest.raises(OptionValueError):
        options.change(before, values, "t", call=True)


@pytest.mark.parametrize(
    "values",
    [
        {"timeout": 5, "soft_timeout": 4},
        {"soft_timeout": 9},
        {"durability": "memory", "executor": "mule"},
        {"durability": "memory"},
        {"durability": "disk", "executor": "spooler"},
        {"durability": "disk"},
    ],
    ids=str,
)
def test_given_options_that_go_together_when_checked_then_they_are_taken(values):
    assert changed(**values) != Options()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, UNLIMITED),
        ({"timeout": 5}, Limits(5.0, 0.0)),
        ({"soft_timeout": 2}, Limits(0.0, 2.0)),
        ({"timeout": 5, "soft_timeout": 2}, Limits(5.0, 2.0)),
    ],
    ids=str,
)
def test_given_options_when_asked_for_the_limits_then_it_has_theirs(values, expected):
    assert changed(**values).limits() == expected


def test_given_no_time_limit_when_asked_for_the_limits_then_it_is_the_very_one_that_costs_nothing():
    assert changed(timeout=None).limits() is UNLIMITED
