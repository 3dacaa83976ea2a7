"""uWSGI as the library sees it: every number and name is checked before it gets there."""

from __future__ import annotations

import sys
import types

import pytest

from tests.support.fake_uwsgi import FakeUwsgi
from uwsgi_tasks import server
from uwsgi_tasks.server import Outside, Uwsgi


def test_given_no_module_of_uwsgi_when_detected_then_it_is_outside(monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", None)
    assert type(server.detect()) is Outside


def test_given_a_module_of_that_name_only_when_detected_then_it_is_outside(monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    assert type(server.detect()) is Outside


def test_given_a_running_server_when_detected_then_it_is_that(monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", FakeUwsgi().module)
    assert type(server.detect()) is Uwsgi


@pytest.mark.parametrize(
    ("value", "expected"), [(b"text", "text"), (True, ""), ("text", "text")], ids=repr
)
def test_given_an_option_when_asked_then_it_is_a_text(value, expected):
    assert FakeUwsgi(my_option=value).server().option("my-option") == expected


def test_given_no_such_option_when_asked_then_there_is_none():
    assert FakeUwsgi().server().option("nothing") is None


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"worker": 1}, ("worker", 1)),
        ({"worker": 0}, ("master", 0)),
        ({"worker": 0, "mule": 2}, ("mule", 2)),
        ({"worker": 0, "spooler": True}, ("spooler", 0)),
    ],
    ids=str,
)
def test_given_a_process_when_asked_then_it_knows_what_it_is(place, expected):
    fake = FakeUwsgi()
    vars(fake).update(place)
    here = fake.server()
    assert (here.kind(), here.number()) == expected


@pytest.mark.parametrize(
    ("pids", "external", "expected"),
    [
        ([0, 0], None, ("/a", "/b")),
        ([0, 0], b"/b", ("/a",)),
        ([0, 17], None, ("/b",)),
        ([17, 18], None, ("/a", "/b")),
    ],
)
def test_given_spoolers_when_asked_for_the_own_ones_then_external_ones_are_left_out(
    pids, external, expected
):
    options = {} if external is None else {"spooler_external": external}
    fake = FakeUwsgi(spoolers=["/a", "/b"], **options)
    fake.pids = pids
    assert fake.server().own_spools() == expected


def test_given_two_processes_of_a_spooler_when_asked_then_both_pids_and_never_zero_are_told():
    fake = FakeUwsgi(spoolers=["/a", "/a", "/b"])
    fake.pids = [17, 18, 0]
    here = fake.server()
    assert (here.spooler_pids("/a"), here.spooler_pids("/b")) == ([17, 18], [])


def test_given_a_spooler_that_is_gone_when_woken_then_nobody_is_harmed():
    fake = FakeUwsgi(spoolers=["/a"])
    fake.pids = [2**22 + 1]
    fake.server().wake("/a")


def test_given_free_signals_when_registered_then_they_are_taken_from_the_top():
    fake = FakeUwsgi()
    fake.handlers[255] = ("", print)
    assert fake.server().register_signal("worker", print) == 254


def test_given_no_free_signal_when_registered_then_it_is_told():
    fake = FakeUwsgi()
    fake.handlers.update(dict.fromkeys(range(256), ("", print)))
    with pytest.raises(ValueError, match="256 signals are taken"):
        fake.server().register_signal("worker", print)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("worker", True),
        ("workers", True),
        ("worker3", True),
        ("active-workers", True),
        ("mule", False),
        ("spooler", False),
        ("", False),
        ("workersx", False),
    ],
)
def test_given_a_target_when_asked_then_only_workers_are_reached_by_a_signal(target, expected):
    assert server.is_worker_target(target) is expected
