"""Timers on a real server: they fire, as often as they should, and what their names can do."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import uwsgi_tasks
from tests.support.server import RemoteError

APP = """
import uwsgi
from uwsgi_tasks import timer, timer_lazy

@timer(seconds=0.2)
def beat(signal_number):
    '''The clock of these tests: "no more came" means "not while this fired some more".'''
    note("beat", number=signal_number)

@timer(seconds=0.1, iterations=3)
def thrice(signal_number):
    note("thrice", number=signal_number)

@timer(seconds=0.2, iterations=2)
def no_argument():
    note("no_argument")

@timer(seconds=0.2, iterations=2)
def any_arguments(*args):
    note("any_arguments", args=args)

@timer(seconds=0.1, iterations=1)
def fails(signal_number):
    note("fails")
    raise KeyError("no")

@timer_lazy(seconds=0.1, iterations=2)
def lazy(signal_number):
    '''A docstring.'''
    note("lazy", number=signal_number)
    return "told"

@timer_lazy(seconds=0.1)
def never_called(signal_number):
    note("never_called")

@timer_lazy(seconds=0.1, iterations=2)
def called(signal_number):
    note("called")

@timer_lazy(seconds=60)
def slow_until_set_up(signal_number):
    note("set_up")

@timer_lazy(target="worker")
def run_me_periodically(signal):
    note("periodic", place=place(), number=signal)

@timer_lazy(seconds=0.1)
def stoppable(signal_number):
    note("stoppable")

@timer_lazy(seconds=0.2)
def restarted(signal_number):
    note("restarted")

@timer_lazy(seconds=0.1, iterations=1)
def again(signal_number):
    note("again")

@timer_lazy
def bare(signal_number):
    note("bare")

def set_up_and_start():
    run_me_periodically.add_setup(seconds=0.2, iterations=2)
    run_me_periodically()

def set_up_two():
    slow_until_set_up.add_setup(seconds=0.1, iterations=2)
    slow_until_set_up()
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    return module_uwsgi(APP)


def settle(server, beats=4):
    """Wait until the clock of the app ticked some more."""
    server.ledger.wait("beat", count=len(server.ledger.rows("beat")) + beats)


def test_given_a_timer_when_the_server_runs_then_it_fires_again_and_again(shared):
    assert len(shared.ledger.wait("beat", count=3)) >= 3


def test_given_a_timer_when_it_fires_then_it_keeps_its_period(shared):
    times = [row["time"] for row in shared.ledger.wait("beat", count=6)]
    assert 0.8 < times[5] - times[0] < 1.6


def test_given_iterations_when_it_fired_so_often_then_it_fires_no_more(shared):
    shared.ledger.wait("thrice", count=3)
    settle(shared)
    assert len(shared.ledger.rows("thrice")) == 3


def test_given_a_function_with_an_argument_when_fired_then_it_gets_its_stable_number(shared):
    numbers = {row["number"] for row in shared.ledger.wait("thrice", count=3)}
    assert numbers == {shared.eval("thrice.number")}


def test_given_two_timers_when_fired_then_their_numbers_differ(shared):
    assert shared.eval("thrice.number != beat.number")


def test_given_a_function_without_an_argument_when_fired_then_it_is_called_without(shared):
    shared.ledger.wait("no_argument", count=2)


def test_given_a_function_of_any_arguments_when_fired_then_it_gets_the_number(shared):
    row = shared.ledger.wait("any_arguments")[0]
    assert row["args"] == [shared.eval("any_arguments.number")]


def test_given_a_timer_that_raises_when_fired_then_its_traceback_is_logged(shared):
    shared.ledger.wait("fails")
    shared.wait_log("KeyError: 'no'")


def test_given_a_lazy_timer_when_not_called_then_it_never_fires(shared):
    settle(shared)
    assert shared.ledger.rows("never_called") == []


def test_given_a_lazy_timer_when_called_in_a_request_then_it_fires_exactly_so_often(shared):
    shared.eval("called()")
    shared.ledger.wait("called", count=2)
    settle(shared)
    assert len(shared.ledger.rows("called")) == 2


def test_given_a_timer_when_its_run_is_called_then_the_plain_function_runs_here(shared):
    assert shared.eval("lazy.run()") == "told"


def test_given_a_timer_when_its_run_gets_a_number_then_the_function_gets_it(shared):
    shared.eval("lazy.run(7)")
    assert shared.ledger.rows("lazy", number=7)


def test_given_a_timer_when_looked_at_then_it_keeps_name_and_docstring(shared):
    assert shared.eval("[lazy.__name__, lazy.__doc__]") == ["lazy", "A docstring."]


def test_given_the_readme_example_when_set_up_and_called_in_a_request_then_it_runs_twice(shared):
    shared.eval("set_up_and_start()")
    shared.ledger.wait("periodic", count=2)
    settle(shared)
    rows = shared.ledger.rows("periodic")
    assert [row["place"] for row in rows] == ["worker", "worker"]


def test_given_other_seconds_when_set_up_then_they_replace_the_declared_ones(shared):
    shared.eval("set_up_two()")
    shared.ledger.wait("set_up", count=2, timeout=5.0)


def test_given_no_seconds_when_called_then_the_error_says_what_is_missing(shared):
    with pytest.raises(RemoteError, match="seconds") as caught:
        shared.eval("bare()")
    assert "ValueError" in caught.value.kinds


def test_given_an_unknown_setup_when_added_then_it_is_refused_with_a_hint(shared):
    with pytest.raises(RemoteError, match="did you mean 'seconds'") as caught:
        shared.eval("lazy.add_setup(second=3)")
    assert "TypeError" in caught.value.kinds


@pytest.mark.parametrize("seconds", ["0", "-1", "float('nan')", "float('inf')"])
def test_given_seconds_that_cant_be_meant_when_added_then_it_is_a_value_error(shared, seconds):
    with pytest.raises(RemoteError, match="seconds") as caught:
        shared.eval(f"slow_until_set_up.add_setup(seconds={seconds})")
    assert "ValueError" in caught.value.kinds


@pytest.mark.parametrize("seconds", ["'5'", "True", "[1]"])
def test_given_seconds_of_a_wrong_type_when_added_then_it_is_a_type_error(shared, seconds):
    with pytest.raises(RemoteError, match="seconds") as caught:
        shared.eval(f"slow_until_set_up.add_setup(seconds={seconds})")
    assert "TypeError" in caught.value.kinds


def test_given_a_running_timer_when_stopped_then_it_fires_no_more(shared):
    shared.eval("stoppable()")
    shared.ledger.wait("stoppable", count=2)
    assert shared.eval("stoppable.stop()") is True
    settle(shared, 2)
    before = len(shared.ledger.rows("stoppable"))
    settle(shared)
    assert len(shared.ledger.rows("stoppable")) == before


def test_given_a_stopped_timer_when_stopped_again_then_it_says_that_it_did_not_run(shared):
    assert shared.eval("[restarted(), restarted.stop(), restarted.stop()]")[1:] == [True, False]


def test_given_a_finished_timer_when_called_again_then_it_starts_anew(shared):
    shared.eval("again()")
    shared.ledger.wait("again", count=1)
    shared.eval("again()")
    shared.ledger.wait("again", count=2)


def test_given_a_running_timer_when_called_again_then_it_has_no_twin(uwsgi):
    server = uwsgi(APP)
    for _ in range(5):
        server.eval("restarted()")
    times = [row["time"] for row in server.ledger.wait("restarted", count=5)]
    assert min(b - a for a, b in pairwise(times)) > 0.1


def test_given_a_timer_when_its_module_runs_outside_uwsgi_then_nothing_happens(tmp_path):
    (tmp_path / "app_base.py").write_text(
        "HANDLES = application = place = wait_for_file = None\ndef note(*a, **k): pass\n"
    )
    (tmp_path / "app.py").write_text("from app_base import *\nimport sys\n" + no_uwsgi(APP))
    code = "import app; print(app.lazy.run()); app.lazy(); print('fine')"
    assert outside(tmp_path, code).split() == ["told", "fine"]


def no_uwsgi(source):
    return source.replace("import uwsgi\n", "")


def outside(folder, code):
    """Run code in a Python that knows of no server."""
    source = Path(uwsgi_tasks.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{source}:{folder}", "TMPDIR": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
