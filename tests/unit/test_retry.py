"""The arithmetic of retrying."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwsgi_tasks.retry import RetryPolicy, wait_after_crash

waits = st.floats(0, 1e6)
steps = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(), [0.0, 0.0, 0.0, 0.0]),
        (RetryPolicy(wait=3), [3.0, 3.0, 3.0, 3.0]),
        (RetryPolicy(wait=2, backoff=3), [2.0, 6.0, 18.0, 54.0]),
        (RetryPolicy(wait=2, backoff=3, max_wait=20), [2.0, 6.0, 18.0, 20.0]),
        (RetryPolicy(wait=30, max_wait=20), [20.0, 20.0, 20.0, 20.0]),
        (RetryPolicy(wait=0, backoff=2), [0.0, 0.0, 0.0, 0.0]),
        (RetryPolicy(wait=5, backoff=1), [5.0, 5.0, 5.0, 5.0]),
    ],
)
def test_given_a_policy_when_asked_for_its_waits_then_they_are_these(policy, expected):
    assert [policy.wait_after(attempt) for attempt in (1, 2, 3, 4)] == expected


@given(wait=waits, backoff=st.floats(1, 100), attempt=steps)
def test_given_a_ceiling_when_the_wait_grows_then_it_never_exceeds_it(wait, backoff, attempt):
    policy = RetryPolicy(wait=wait, backoff=backoff, max_wait=60)
    assert 0 <= policy.wait_after(attempt) <= 60


@given(wait=waits, backoff=st.floats(1, 100), attempt=steps)
def test_given_a_backoff_when_an_attempt_follows_then_its_wait_is_no_shorter(
    wait, backoff, attempt
):
    policy = RetryPolicy(wait=wait, backoff=backoff, max_wait=1e8)
    assert policy.wait_after(attempt) <= policy.wait_after(attempt + 1)


@given(wait=waits, jitter=st.floats(0, 100), attempt=steps)
def test_given_a_jitter_when_asked_for_a_wait_then_it_adds_at_most_that(wait, jitter, attempt):
    policy = RetryPolicy(wait=wait, jitter=jitter)
    assert wait <= policy.wait_after(attempt) <= (wait + jitter) * (1 + 1e-12)


def test_given_a_jitter_when_asked_often_then_the_waits_differ():
    policy = RetryPolicy(wait=1, jitter=10)
    assert len({policy.wait_after(1) for _ in range(20)}) > 1


@pytest.mark.parametrize("attempt", [12, 154, 5000])
def test_given_a_wait_that_outgrows_every_float_when_asked_then_it_is_a_long_finite_one(attempt):
    assert RetryPolicy(wait=1e6, backoff=100).wait_after(attempt) == 1e9


def test_given_no_wait_when_its_backoff_outgrows_every_float_then_there_is_none_still():
    assert RetryPolicy(wait=0, backoff=10).wait_after(5000) == 0


def test_given_a_wait_that_outgrows_every_float_when_there_is_a_ceiling_then_that_is_it():
    assert RetryPolicy(wait=1, backoff=10, max_wait=90).wait_after(5000) == 90


@pytest.mark.parametrize(
    ("executions", "attempts", "expected"),
    [(None, 0, 1), (None, 1, 0), (0, 0, 1), (1, 1, 0), (3, 0, 3), (3, 2, 1), (3, 3, 0), (3, 9, 0)],
)
def test_given_executions_when_some_were_made_then_so_many_are_left(executions, attempts, expected):
    assert RetryPolicy(executions).left_after(attempts) == expected


@given(executions=st.none() | st.integers(0, 1000), attempts=st.integers(0, 2000))
def test_given_any_policy_when_attempts_are_made_then_what_is_left_never_falls_below_zero(
    executions, attempts
):
    assert RetryPolicy(executions).left_after(attempts) >= 0


# after a death

deaths = st.integers(-5, 10_000)


@pytest.mark.parametrize(
    ("crashes", "expected"),
    [(0, 0.0), (1, 0.0), (2, 1.0), (3, 2.0), (4, 4.0), (7, 32.0), (8, 60.0), (9, 60.0), (99, 60.0)],
)
def test_given_deaths_when_asked_for_the_wait_then_it_is_this(crashes, expected):
    assert wait_after_crash(crashes) == expected


@given(deaths)
def test_given_any_number_of_deaths_when_one_follows_then_its_wait_is_no_shorter(crashes):
    assert 0 <= wait_after_crash(crashes) <= wait_after_crash(crashes + 1) <= 60


@given(st.integers(2, 7))
def test_given_some_deaths_when_one_follows_then_its_wait_doubles_up_to_a_minute(crashes):
    assert wait_after_crash(crashes + 1) == min(2 * wait_after_crash(crashes), 60)


# several rules together


@given(
    wait=waits,
    backoff=st.none() | st.floats(1, 100),
    max_wait=st.none() | waits,
    jitter=st.floats(0, 1e3),
    attempt=steps,
)
def test_given_any_policy_when_asked_for_a_wait_then_it_is_finite_and_within_its_bounds(
    wait, backoff, max_wait, jitter, attempt
):
    policy = RetryPolicy(wait=wait, backoff=backoff, max_wait=max_wait, jitter=jitter)
    found = policy.wait_after(attempt)
    assert math.isfinite(found)
    assert found >= min(wait, math.inf if max_wait is None else max_wait)
    if max_wait is not None:
        assert found <= (max_wait + jitter) * (1 + 1e-12)


@given(executions=st.integers(1, 50))
def test_given_executions_when_each_fails_then_exactly_so_many_are_made(executions):
    policy, made = RetryPolicy(executions), 0
    while policy.left_after(made):
        made += 1
    assert made == executions
