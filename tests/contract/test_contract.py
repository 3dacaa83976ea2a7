"""What holds for a task wherever it runs and however its arguments travel."""

from __future__ import annotations

import pytest


@pytest.fixture
def run(world, travel, tag):
    """Call a task and wait until all of it is over; return what it noted and its dead letter."""

    def call(task, *args, options=(), **kwargs):
        handle = world.call(task, tag, *args, options={**travel, **dict(options)}, **kwargs)
        world.settle(handle, tag)
        rows = world.rows(tag)
        return rows, world.letter(rows[0]["id"]) if rows else None

    return call


def numbers(rows):
    return [row["attempt"] for row in rows]


# arguments


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, -2.5, "text", None, True), {"a": "é", "b": [1, [2]]}),
        (({"k": {"l": []}},), {}),
        (("x" * 30_000,), {}),
    ],
    ids=["none", "plain", "nested", "large"],
)
def test_given_arguments_when_it_runs_then_it_gets_them_once_as_they_were(run, args, kwargs):
    ((row,), letter) = run("echo", *args, **kwargs)
    assert (row["args"], row["kwargs"]) == (repr(args), repr(sorted(kwargs.items())))
    assert letter is None


def test_given_an_executor_when_it_runs_then_it_runs_there(run, executor):
    ((row,), _) = run("echo")
    assert row["executor"].lower() == executor


@pytest.mark.parametrize("code", ["lambda: 1", "(n for n in [1])"], ids=["lambda", "generator"])
def test_given_an_argument_that_cannot_be_sent_when_called_then_it_is_refused_and_named(
    world, travel, code
):
    kind, text = world.refusal("echo", code, travel)
    assert (kind, "argument 1" in text, "app.echo" in text) == ("ArgumentsError", True, True)


# retries


@pytest.mark.parametrize(
    ("task", "args"), [("fails", ()), ("returns", (-1,))], ids=["exception", "code"]
)
@pytest.mark.parametrize(("ok_at", "expected"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_given_a_retry_count_when_it_succeeds_at_some_attempt_then_it_ran_as_often(
    run, task, args, ok_at, expected
):
    rows, _ = run(task, *args, ok_at=ok_at)
    assert numbers(rows) == list(range(1, expected + 1))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_given_a_retry_count_of_the_call_when_it_never_succeeds_then_that_many_run(run, count):
    rows, _ = run("fails", options={"retry_count": count})
    assert numbers(rows) == list(range(1, count + 1))


def test_given_a_wait_when_it_is_retried_then_it_runs_as_often(run, world, tag):
    run("fails", options={"retry_timeout": 0.05})
    assert numbers(world.wait_rows(tag, 3)) == [1, 2, 3]


def test_given_attempts_when_it_is_retried_then_the_id_stays(run):
    rows, _ = run("fails")
    assert len({row["id"] for row in rows}) == 1


@pytest.mark.parametrize(("kind", "expected"), [("KeyError", 3), ("OSError", 1)])
def test_given_retry_on_when_it_raises_then_only_those_are_retried(run, kind, expected):
    rows, _ = run("fails_narrowly", kind)
    assert len(rows) == expected


@pytest.mark.parametrize(
    ("count", "until", "expected"), [(None, 99, 1), (0, 99, 1), (1, 2, 2), (5, 4, 4)]
)
def test_given_a_count_in_the_exception_when_raised_then_it_replaces_what_is_left(
    run, count, until, expected
):
    rows, _ = run("asks", count=count, until=until)
    assert len(rows) == expected


@pytest.mark.parametrize(("count", "expected"), [(1, 2), (3, 4)])
def test_given_a_count_in_the_first_exception_when_others_follow_then_so_many_more_run(
    run, count, expected
):
    rows, _ = run("asks_once", count)
    assert numbers(rows) == list(range(1, expected + 1))


def test_given_a_retry_count_set_by_the_task_when_it_raises_then_that_many_run(run):
    rows, _ = run("retries_itself")
    assert [row["left"] for row in rows] == [3, 2, 1]


# codes


@pytest.mark.parametrize(("code", "runs", "dead"), [(-2, 1, False), (-1, 3, True), (0, 1, True)])
def test_given_a_task_that_reads_codes_when_it_returns_one_then_it_counts(
    run, executor, code, runs, dead
):
    rows, letter = run("returns", code)
    assert len(rows) == runs
    assert (letter is not None) is (dead and executor != "runtime")


@pytest.mark.parametrize("code", [-2, -1, 0, None, True, "text"])
def test_given_a_task_that_reads_no_codes_when_it_returns_one_then_it_is_a_result(run, code):
    rows, letter = run("returns_plainly", code)
    assert (len(rows), letter) == (1, None)


@pytest.mark.parametrize(("code", "dead"), [(-2, False), (0, True), (None, False), (7, False)])
def test_given_spooler_return_of_the_call_when_it_returns_then_the_code_counts(
    run, executor, code, dead
):
    rows, letter = run("returns_plainly", code, options={"spooler_return": True})
    assert len(rows) == 1
    assert (letter is not None) is (dead and executor != "runtime")


# buffer and steps


def test_given_a_buffer_when_it_is_retried_then_each_attempt_finds_what_was_before(run):
    rows, _ = run("remembers")
    assert [row["seen"] for row in rows] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_given_something_unsendable_in_the_buffer_when_it_is_retried_then_it_is_dead(run, executor):
    rows, letter = run("spoils_buffer")
    assert len(rows) == 1
    if executor != "runtime":
        assert letter["reason"] == "its buffer can't be kept"


def test_given_steps_when_each_calls_the_next_then_all_run_with_one_buffer(run, world, tag):
    run("steps", 3)
    rows = world.wait_rows(tag, 4)
    assert [(row["n"], row["seen"]) for row in rows] == [
        (3, []),
        (2, [3]),
        (1, [3, 2]),
        (0, [3, 2, 1]),
    ]


def test_given_steps_when_each_calls_the_next_then_ids_differ_and_the_chain_is_the_first(
    run, world, tag
):
    run("steps", 2)
    rows = world.wait_rows(tag, 3)
    assert len({row["id"] for row in rows}) == 3
    assert {row["chain"] for row in rows} == {rows[0]["id"]}


# the running task


def test_given_a_run_when_it_looks_at_itself_then_it_knows_its_call(run, executor, tag):
    ((row,), _) = run("looks", key="v", options={"retry_count": 5, "retry_timeout": 9})
    assert (row["args"], row["kwargs"], row["name"]) == ([tag], {"key": "v"}, "app.looks")
    assert (row["left"], row["wait"], row["attempt"]) == (5, 9.0, 1)
    assert row["kind"] == f"{executor.capitalize()}Task"
    assert (row["nested"], row["chain"]) == (row["id"], row["id"])


def test_given_a_handle_when_it_runs_then_the_task_has_the_same_id(world, travel, tag):
    handle = world.call("echo", tag, options=travel)
    world.settle(handle, tag)
    assert [row["id"] for row in world.rows(tag)] == [world.id_of(handle)]


# dead letters


@pytest.mark.parametrize("executor", ["spooler", "mule"], indirect=True)
def test_given_a_task_that_never_succeeds_when_it_is_over_then_a_letter_tells_its_story(run, tag):
    rows, letter = run("fails")
    assert (letter["task"], letter["error"]) == ("app.fails", f"KeyError: 'no {tag}'")
    assert [attempt["attempt"] for attempt in letter["attempts"]] == numbers(rows)
    assert "in fails" in letter["traceback"]
    assert letter["has_message"] is True


@pytest.mark.parametrize("executor", ["spooler", "mule"], indirect=True)
def test_given_a_task_that_exits_when_it_runs_then_it_is_a_failure_of_the_task(run):
    rows, letter = run("exits")
    assert (len(rows), letter["error"]) == (1, "SystemExit: 3")


def test_given_a_task_that_succeeds_at_last_when_it_is_over_then_there_is_no_letter(run):
    rows, letter = run("fails", ok_at=3)
    assert (len(rows), letter) == (3, None)
