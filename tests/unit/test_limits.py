"""Time limits of a run: the soft one raises in the task, the hard one is uWSGI's."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.support.fake_uwsgi import FakeUwsgi
from tests.support.messages import a_message
from uwsgi_tasks import engine
from uwsgi_tasks.errors import SoftTimeout
from uwsgi_tasks.limits import Limiter
from uwsgi_tasks.model import UNLIMITED, Limits, Run, TaskExecutor, TaskSpec
from uwsgi_tasks.server import Outside

SPOOLER, RUNTIME = TaskExecutor.SPOOLER, TaskExecutor.RUNTIME
SHORT, LONG = 0.03, 30.0
NOT_INTERRUPTED: list[object] = []


@pytest.fixture(autouse=True)
def no_alarm_is_left():
    """Set the alarm of pytest's own aside, and see that none of a run is left."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    mine = signal.setitimer(signal.ITIMER_REAL, 0)
    NOT_INTERRUPTED.clear()
    yield
    assert NOT_INTERRUPTED == []
    found = signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *mine)
    assert found == ((0.0, 0.0), signal.SIG_IGN)


@pytest.fixture
def fake_server():
    return FakeUwsgi()


@pytest.fixture
def limiter(fake_server):
    return Limiter(fake_server.server())


def a_run(timeout=0.0, soft_timeout=0.0, executor=SPOOLER, call=None):
    run = Run(a_message(limits=call), executor, 0.0)
    limits = Limits(timeout, soft_timeout) if timeout or soft_timeout else UNLIMITED
    run.spec = TaskSpec("app.task", print, limits=limits)
    return run


def sleeps(run=None):
    """Wait for whatever interrupts it; fail when nothing does."""
    signal.sigtimedwait([], 10.0)  # ends by an alarm only
    NOT_INTERRUPTED.append(run)


def left(run=None):
    return signal.getitimer(signal.ITIMER_REAL)[0]


# soft


def test_given_a_soft_limit_when_the_task_runs_as_long_then_it_is_raised_in_it(limiter):
    with pytest.raises(SoftTimeout, match=r"ran for 0\.03 s, its soft_timeout"):
        limiter(a_run(soft_timeout=SHORT), sleeps)


def test_given_a_soft_limit_when_the_task_catches_it_then_it_may_go_on(limiter):
    def cleans_up(run):
        with pytest.raises(TimeoutError):
            sleeps()
        return "cleaned up"

    assert limiter(a_run(soft_timeout=SHORT), cleans_up) == "cleaned up"


def test_given_a_soft_limit_when_the_task_is_faster_then_nothing_follows(limiter):
    assert 29 < limiter(a_run(soft_timeout=LONG), left) <= LONG


def test_given_no_limit_when_the_task_runs_then_no_alarm_is_set(limiter, fake_server):
    assert (limiter(a_run(), left), fake_server.harakiris) == (0.0, [])


def test_given_a_limit_of_the_call_when_run_then_it_counts_before_that_of_the_task(limiter):
    run = a_run(soft_timeout=LONG, call=Limits(soft_timeout=2 * LONG))
    assert 59 < limiter(run, left) <= 60


def test_given_a_handler_of_the_application_when_the_task_ends_then_it_is_put_back(limiter):
    seen = []

    def handler(number, frame):
        seen.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        limiter(a_run(soft_timeout=LONG), left)
        signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == [signal.SIGALRM]


def test_given_an_alarm_of_the_application_when_the_task_ends_then_it_goes_on(limiter):
    signal.setitimer(signal.ITIMER_REAL, LONG)
    try:
        limiter(a_run(soft_timeout=2 * LONG), left)
        assert 29 < left() <= LONG
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_given_an_alarm_that_comes_after_the_end_when_it_arrives_then_nothing_is_raised(limiter):
    handlers = []
    limiter(a_run(soft_timeout=LONG), lambda run: handlers.append(signal.getsignal(14)))
    handlers[0](signal.SIGALRM, None)


# nested


def nested(limiter, outer, inner, inside):
    """Run a task in a task, each with a soft limit; return what the outer one gives."""
    seen = []

    def outer_task(run):
        try:
            seen.append(limiter(a_run(soft_timeout=inner), inside))
        except SoftTimeout as error:
            seen.append(str(error))
        seen.append(left())
        return seen

    return limiter(a_run(soft_timeout=outer), outer_task)


def test_given_a_shorter_limit_inside_when_it_ends_then_the_inner_task_alone_is_interrupted(
    limiter,
):
    error, after = nested(limiter, LONG, SHORT, sleeps)
    assert "ran for 0.03 s" in error
    assert 29 < after < LONG


def test_given_a_longer_limit_inside_when_the_outer_ends_then_that_is_told(limiter):
    def outer_task(run):
        return limiter(a_run(soft_timeout=LONG), sleeps)

    with pytest.raises(SoftTimeout, match=r"ran for 0\.03 s"):
        limiter(a_run(soft_timeout=SHORT), outer_task)


def test_given_a_limit_inside_when_it_did_not_end_then_the_outer_one_is_armed_with_what_is_left(
    limiter,
):
    inside, after = nested(limiter, LONG, 10.0, left)
    assert 9 < inside <= 10
    assert 29 < after <= LONG


def test_given_an_outer_limit_that_ended_meanwhile_when_the_inner_task_ends_then_it_is_raised(
    limiter,
):
    def outer_task(run):
        end = time.monotonic() + SHORT

        def slow(inner):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            while time.monotonic() < end + 0.01:
                pass

        try:
            limiter(a_run(soft_timeout=SHORT / 2), slow)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        sleeps()

    with pytest.raises(SoftTimeout, match=r"ran for 0\.0"):
        limiter(a_run(soft_timeout=SHORT), outer_task)


# threads and the caller's own process


def test_given_another_thread_when_the_task_runs_then_it_is_told_once_and_nothing_is_set(
    limiter, caplog
):
    found = []

    def work():
        found.extend(limiter(a_run(soft_timeout=SHORT), left) for _ in range(2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0.0, 0.0]
    assert ["main thread" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(("soft", "expected"), [(0.0, LONG), (10.0, 10.0)])
def test_given_a_hard_limit_when_run_in_the_caller_then_it_is_soft_and_told_once(
    limiter, fake_server, caplog, soft, expected
):
    for _ in range(2):
        assert expected - 1 < limiter(a_run(LONG, soft, RUNTIME), left) <= expected
    assert fake_server.harakiris == []
    assert ["acts as soft_timeout" in record.getMessage() for record in caplog.records] == [True]


# hard


@pytest.mark.parametrize(("timeout", "seconds"), [(5.0, 5), (0.2, 1), (2.001, 3)])
def test_given_a_hard_limit_when_run_then_harakiri_is_set_in_whole_seconds_and_taken_back(
    limiter, fake_server, timeout, seconds
):
    seen = []
    limiter(a_run(timeout), lambda run: seen.extend(fake_server.harakiris))
    assert (seen, fake_server.harakiris) == ([seconds], [seconds, 0])


def test_given_a_hard_limit_when_the_task_raises_then_harakiri_is_taken_back(limiter, fake_server):
    def fails(run):
        raise KeyError("no")

    with pytest.raises(KeyError):
        limiter(a_run(5.0), fails)
    assert fake_server.harakiris == [5, 0]


def test_given_both_limits_when_run_then_the_soft_one_comes_before_the_hard_one(
    limiter, fake_server
):
    with pytest.raises(SoftTimeout):
        limiter(a_run(5.0, SHORT), sleeps)
    assert fake_server.harakiris == [5, 0]


def test_given_no_server_when_run_with_a_hard_limit_then_nothing_can_be_killed():
    assert Limiter(Outside())(a_run(5.0), left) == 0.0


def test_given_no_master_when_run_with_a_hard_limit_then_uwsgi_is_not_asked():
    server = FakeUwsgi(master=False)
    Limiter(server.server())(a_run(5.0), left)
    assert server.harakiris == []


# as a part of the engine


def test_given_a_task_with_a_soft_limit_when_it_hangs_then_it_is_a_failure_like_any_other(fake):
    fake()
    engine.registry.add(TaskSpec("app.task", sleeps, limits=Limits(soft_timeout=SHORT)))
    this = engine.current()
    this.process(a_message(), SPOOLER, this.server.own_spools()[0])
    (letter,) = this.site().letters.list()
    assert letter.error.startswith("SoftTimeout: ")


def test_given_a_task_that_ran_into_its_limit_when_the_next_one_runs_then_it_is_not_touched(fake):
    fake()
    seen = []
    engine.registry.add(TaskSpec("app.hangs", sleeps, limits=Limits(soft_timeout=SHORT)))
    engine.registry.add(TaskSpec("app.task", lambda: seen.append(left())))
    this = engine.current()
    for name in ("app.hangs", "app.task"):
        this.process(a_message(name), SPOOLER, this.server.own_spools()[0])
    assert seen == [0.0]
