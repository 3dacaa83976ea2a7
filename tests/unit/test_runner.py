"""How a run ends: what the task returned or raised, read in one way."""

from __future__ import annotations

import enum
import logging
from datetime import timedelta

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import runner
from uwsgi_tasks.errors import ArgumentsError, RetryTaskException, UnknownTask
from uwsgi_tasks.middleware import compose
from uwsgi_tasks.model import Outcome, TaskExecutor, TaskSpec
from uwsgi_tasks.retry import RetryPolicy

SPOOLER, RUNTIME = TaskExecutor.SPOOLER, TaskExecutor.RUNTIME
ONCE = RetryPolicy()
THRICE = RetryPolicy(3, wait=7.0)


class NumpyLike:
    """Like a NumPy integer: equal to a code, and no int."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == other

    __hash__ = None

    def __index__(self):
        return self.value


class Array:
    """Like a NumPy array: comparing it can't be asked whether it's true."""

    def __eq__(self, other):
        return self

    __hash__ = None

    def __bool__(self):
        raise ValueError("ambiguous")


class Code(enum.IntEnum):
    RETRY = -1


class Silent(Exception):
    def __str__(self):
        raise ZeroDivisionError


def run(function, message=None, executor=SPOOLER, **spec):
    """Run a function as a task; return how it ended."""
    task = TaskSpec("app.task", function, **spec)
    return runner.run(message or a_message(), executor, lambda name: task, compose(()))[1]


def returns(value, **spec):
    return run(lambda: value, **spec)


def raises(error, message=None, **spec):
    def fail():
        raise error

    return run(fail, message, **spec)


# what it returned


def shown(value):
    """Name a value in a test's id: the same one in every process."""
    return f"{type(value).__name__} {value}" if isinstance(value, (int, float, str)) else None


NO_CODES = [None, 5, "text", True, False, NumpyLike(-1), Array(), -3, -1.0, 0.0, Code.RETRY]


@pytest.mark.parametrize("value", [*NO_CODES, -2, -1, 0], ids=shown)
def test_given_a_task_that_reads_no_codes_when_it_returns_then_it_is_a_result(value):
    assert returns(value)._replace(result=None) == Outcome("ok")


@pytest.mark.parametrize("value", NO_CODES, ids=shown)
def test_given_a_task_that_reads_codes_when_it_returns_something_else_then_it_is_a_result(value):
    found = returns(value, reads_codes=True)
    assert (found.state, found.result is value) == ("ok", True)


@pytest.mark.parametrize(
    ("value", "policy", "state", "reason"),
    [
        (-2, ONCE, "ok", ""),
        (-1, ONCE, "retry", "SPOOL_RETRY"),
        (0, ONCE, "dead", "SPOOL_IGNORE"),
        (-2, THRICE, "ok", ""),
        (-1, THRICE, "retry", "SPOOL_RETRY"),
        (0, THRICE, "dead", "SPOOL_IGNORE"),
        (-1, RetryPolicy(1), "dead", "no retry is left"),
        (-1, RetryPolicy(0), "dead", "no retry is left"),
    ],
)
def test_given_a_task_that_reads_codes_when_it_returns_one_then_it_says_how_it_ended(
    value, policy, state, reason
):
    found = returns(value, reads_codes=True, policy=policy)
    assert (found.state, reason in found.reason) == (state, True)


def test_given_no_retry_count_when_retry_is_returned_then_it_runs_at_the_next_scan():
    found = returns(-1, reads_codes=True)
    assert (found.next_scan, found.executions_left) == (True, None)


def test_given_a_retry_count_when_retry_is_returned_then_it_waits_and_counts():
    found = returns(-1, reads_codes=True, policy=THRICE)
    assert (found.next_scan, found.wait, found.executions_left) == (False, 7.0, 2)


@pytest.mark.parametrize(("said", "declared"), [(True, False), (False, True)])
def test_given_a_call_that_says_whether_codes_are_read_then_the_declaration_does_not_count(
    said, declared
):
    found = run(lambda: 0, a_message(reads_codes=said), reads_codes=declared)
    assert found.state == ("dead" if said else "ok")


def test_given_spooler_return_when_none_is_returned_then_it_is_done_with_one_warning(caplog):
    found = [returns(None, reads_codes=True, warns_on_none=True) for _ in range(2)]
    assert [outcome.state for outcome in found] == ["ok", "ok"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# what it raised


@pytest.mark.parametrize(
    ("error", "spec", "state", "left", "wait"),
    [
        (KeyError(), {}, "dead", None, 0.0),
        (KeyError(), {"policy": THRICE}, "retry", 2, 7.0),
        (SystemExit(), {"policy": THRICE}, "dead", None, 0.0),
        (KeyboardInterrupt(), {"policy": THRICE}, "dead", None, 0.0),
        (GeneratorExit(), {"policy": THRICE}, "dead", None, 0.0),
        (SystemExit(), {"policy": THRICE, "retry_on": (SystemExit,)}, "retry", 2, 7.0),
        (KeyError(), {"policy": THRICE, "retry_on": (LookupError,)}, "retry", 2, 7.0),
        (OSError(), {"policy": THRICE, "retry_on": (LookupError,)}, "dead", None, 0.0),
        (KeyError(), {"policy": THRICE, "no_retry_on": (LookupError,)}, "dead", None, 0.0),
        (OSError(), {"policy": THRICE, "no_retry_on": (LookupError,)}, "retry", 2, 7.0),
        (KeyError(), {"policy": THRICE, "retry_on": ()}, "dead", None, 0.0),
        (RetryTaskException(), {}, "dead", None, 0.0),
        (RetryTaskException(), {"policy": THRICE}, "retry", 2, 7.0),
        (RetryTaskException(), {"policy": THRICE, "retry_on": ()}, "retry", 2, 7.0),
        (RetryTaskException(count=5), {}, "retry", 5, 0.0),
        (RetryTaskException(count=5), {"policy": THRICE}, "retry", 5, 7.0),
        (RetryTaskException(count=0), {"policy": THRICE}, "dead", None, 0.0),
        (RetryTaskException(count=-1), {"policy": THRICE}, "dead", None, 0.0),
        (RetryTaskException(timeout=0), {"policy": THRICE}, "retry", 2, 0.0),
        (RetryTaskException(timeout=1.5), {"policy": THRICE}, "retry", 2, 1.5),
        (RetryTaskException(timeout=-5), {"policy": THRICE}, "retry", 2, 0.0),
        (RetryTaskException(timeout=timedelta(minutes=1)), {"policy": THRICE}, "retry", 2, 60.0),
        (RetryTaskException(1, 2), {}, "retry", 1, 2.0),
    ],
)
def test_given_an_exception_when_it_ends_the_run_then_it_is_read_as_this(
    error, spec, state, left, wait
):
    found = raises(error, **spec)
    assert (found.state, found.executions_left, found.wait) == (state, left, wait)


@pytest.mark.parametrize(
    "given",
    [{"count": "3"}, {"count": 2.5}, {"timeout": "soon"}, {"timeout": []}],
    ids=str,
)
def test_given_a_retry_exception_that_cannot_be_meant_when_raised_then_the_run_still_ends(given):
    def fail():
        raise RetryTaskException(**given)

    found = run(fail, policy=THRICE)
    assert found.state in ("dead", "retry")
    assert type(found.executions_left) in (int, type(None))


@pytest.mark.parametrize(("left", "state"), [(3, "retry"), (2, "retry"), (1, "dead"), (0, "dead")])
def test_given_what_the_message_has_left_when_it_raises_then_that_counts(left, state):
    found = raises(KeyError(), a_message(attempt=4, executions_left=left), policy=RetryPolicy(1))
    assert found.state == state


def test_given_a_policy_of_the_call_when_it_raises_then_it_counts_before_the_tasks():
    found = raises(KeyError(), a_message(policy=RetryPolicy(9, wait=3.0)), policy=THRICE)
    assert (found.executions_left, found.wait) == (8, 3.0)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_given_runtime_when_the_task_ends_the_process_then_it_is_meant(kind):
    with pytest.raises(kind):
        raises(kind(), executor=RUNTIME)


def test_given_a_run_when_it_raised_then_the_exception_is_kept_with_its_traceback():
    error = KeyError("x")
    found = raises(error)
    assert found.error is error
    assert found.error.__traceback__ is not None


# what can't even be called


def test_given_an_unknown_task_when_run_then_it_is_unknown():
    def resolve(name):
        raise UnknownTask(name)

    found = runner.run(a_message(), SPOOLER, resolve, compose(()))[1]
    assert (found.state, found.reason) == ("unknown", "unknown task")


@pytest.mark.parametrize("error", [ImportError("no"), SyntaxError("no"), SystemExit(3)], ids=repr)
def test_given_a_module_that_fails_when_run_then_it_is_unknown_and_the_cause_is_kept(error):
    def resolve(name):
        raise error

    found = runner.run(a_message(), SPOOLER, resolve, compose(()))[1]
    assert (found.state, found.error) == ("unknown", error)


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\x80\x05N.", b"cno_such\nthing\n."])
def test_given_arguments_that_do_not_load_when_run_then_it_is_unloadable(payload):
    assert run(print, a_message()._replace(payload=payload)).state == "unloadable"


def test_given_arguments_that_do_not_fit_when_run_then_it_is_a_failure_of_the_task():
    found = run(lambda one: None, a_message(args=[1, 2]))
    assert (found.state, type(found.error)) == ("dead", TypeError)


# around the run


def test_given_a_run_when_over_then_there_is_no_current_one():
    seen = []
    run(lambda: seen.append(runner.current.get()))
    assert (seen[0].message.task, runner.current.get()) == ("app.task", None)


def test_given_a_run_that_raised_when_over_then_depth_and_current_are_as_before():
    raises(KeyError())
    assert (runner.current.get(), runner.depth.get()) == (None, 0)


def test_given_middleware_when_run_then_the_first_is_outermost_and_sees_the_result():
    order = []

    def layer(name):
        def middleware(run, call_next):
            order.append(name)
            result = call_next(run)
            order.append(f"{name} {result}")
            return result

        return middleware

    call = compose((layer("outer"), layer("inner")))
    spec = TaskSpec("app.task", lambda: "result")
    runner.run(a_message(), SPOOLER, lambda name: spec, call)
    assert order == ["outer", "inner", "inner result", "outer result"]


def a_run(message, buffer):
    this = runner.Run(message, SPOOLER, 0.0)
    if buffer is not None:
        this.buffer_loaded = buffer
    return this


@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_given_a_buffer_when_kept_then_the_next_attempt_reads_it(serializer):
    message = a_message(serializer=serializer)
    kept = runner.buffer_of(a_run(message, {"seen": 1}))
    assert runner.load_buffer(a_run(message._replace(buffer=kept), None)) == {"seen": 1}


def test_given_a_buffer_that_nobody_read_when_kept_then_its_bytes_stay():
    assert runner.buffer_of(a_run(a_message(buffer=b"raw"), None)) == b"raw"


def test_given_an_empty_buffer_when_kept_then_it_takes_no_bytes():
    assert runner.buffer_of(a_run(a_message(buffer=b"raw"), {})) == b""


def test_given_something_unsendable_in_the_buffer_when_kept_then_the_error_names_the_task():
    with pytest.raises(ArgumentsError, match=r"buffer of app\.task"):
        runner.buffer_of(a_run(a_message(), {"f": lambda: 1}))


# the log


def ended(caplog, outcome):
    with caplog.at_level(logging.INFO, "uwsgi_tasks.runner"):
        runner.log_end(runner.Run(a_message(args=["s3cret"]), SPOOLER, 0.0), outcome)
    (record,) = caplog.records
    return record


@pytest.mark.parametrize(
    ("outcome", "level", "text"),
    [
        (Outcome("ok"), "INFO", "finished in"),
        (Outcome("retry", wait=5.0, reason="it said so"), "WARNING", "again in 5 s"),
        (Outcome("retry", error=KeyError("x")), "WARNING", "KeyError: 'x'"),
        (Outcome("unknown", reason="unknown task"), "WARNING", "unknown task"),
        (Outcome("dead", reason="it said so"), "ERROR", "is dead after attempt 1: it said so"),
        (Outcome("unloadable", reason="no"), "ERROR", "is dead"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_given_an_outcome_when_logged_then_level_and_text_tell_it(caplog, outcome, level, text):
    record = ended(caplog, outcome)
    assert (record.levelname, text in record.getMessage()) == (level, True)


def test_given_an_outcome_when_logged_then_machines_can_read_it_and_no_argument_is_shown(caplog):
    record = ended(caplog, Outcome("dead", error=KeyError()))
    assert (record.action, record.task, record.attempt) == ("dead", "app.task", 1)
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, ""), (KeyError("x"), "KeyError: 'x'"), (Silent(), "Silent")],
    ids=["none", "usual", "hostile"],
)
def test_given_an_exception_when_described_then_even_a_hostile_one_is(error, expected):
    assert runner.describe(error) == expected
