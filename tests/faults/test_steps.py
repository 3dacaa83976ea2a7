"""SIGKILL right before and right after each step of a call, a run, its end and its recovery."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest

from . import actions, scenario
from .checker import Checker
from .points import STEPS
from .scenario import WORKLOADS

pytestmark = pytest.mark.timeout(150)
MOMENTS = ("before", "after")


class Place(NamedTuple):
    """Where a step occurs.

    Attributes:
        kind: In which kind of process.
        step: Its name.
        workload: What passes it.
        first: A death that leads to it.
    """

    kind: str
    step: str
    workload: str = "steady"
    first: tuple[str, str] | None = None


PLACES = (
    *(
        Place("worker", step)
        for step in (
            "submit",
            "note_package",
            "write",
            "rename",
            "wake",
            "wake_timekeeper",
            "wait",
            "put",
            "pump",
            "enter_spool",
            "submit_once",
            "link",
            "unlink",
            "mark_in_spool",
        )
    ),
    Place("worker", "take_back", "swapped"),
    *(
        Place("spooler", step)
        for step in (
            "write",
            "wake",
            "wake_timekeeper_for",
            "wait",
            "put",
            "pump",
            "on_file",
            "take",
            "begin",
            "run",
            "after_task",
            "settle",
            "deliver",
            "keep",
            "keep_story",
            "bury",
            "close",
            "site_finish",
            "store_finish",
            "note_over",
            "end",
            "pump_if_any",
            "promote",
            "promote_one",
            "prepare",
            "enter",
            "mark_entered",
            "mark_ready",
            "enter_spool",
            "submit_once",
            "link",
            "unlink",
            "mark_in_spool",
            "tick",
        )
    ),
    *(
        Place("spooler", step, "deadly")
        for step in ("claim", "look", "deliver_again", "clear", "deliver", "put", "recover_mules")
    ),
    *(Place("spooler", step, first=("end", "after")) for step in ("pass_over", "note_seen")),
    *(
        Place("mule", step, "muled")
        for step in (
            "on_mule_message",
            "begin",
            "run",
            "settle",
            "deliver",
            "wait",
            "put",
            "wake_timekeeper_for",
            "bury",
            "keep",
            "keep_story",
            "close",
            "site_finish",
            "store_finish",
            "note_over",
            "end",
            "after_task",
        )
    ),
    Place("mule", "claim", "deadly in a mule"),
    *(
        Place("spooler", step, "deadly in a mule")
        for step in ("recover_mules", "deliver_again", "clear")
    ),
)
FAST = {
    "rename before, worker, steady",
    "mark_in_spool before, worker, steady",
    "begin after, spooler, steady",
    "prepare after, spooler, steady",
    "enter before, spooler, steady",
    "enter after, spooler, steady",
    "mark_entered after, spooler, steady",
    "put after, spooler, steady",
    "keep after, spooler, steady",
    "note_over after, spooler, steady",
    "deliver_again after, spooler, deadly",
    "pass_over after, spooler, steady",
    "run after, mule, muled",
}
ALL_AT_ONCE = ("rename", "begin", "run", "deliver", "put", "keep", "bury", "note_over", "link")
OUTSIDE = ("submit", "note_package", "write", "rename", "wake", "wait", "put", "pump", "link")
OUTSIDE += ("unlink", "mark_in_spool", "wake_timekeeper")


@pytest.fixture(scope="module")
def server(module_uwsgi):
    return scenario.start(functools.partial(module_uwsgi, started=False))


def cases():
    for place in PLACES:
        for when in MOMENTS:
            ident = f"{place.step} {when}, {place.kind}, {place.workload}"
            yield pytest.param(
                place, when, id=ident, marks=[pytest.mark.slow] * (ident not in FAST)
            )


@pytest.mark.parametrize(("place", "when"), [*cases()])
def test_given_a_workload_when_its_process_is_killed_at_a_step_then_nothing_is_lost(
    server, place, when
):
    shot = {"step": place.step, "when": when, "kind": place.kind, "first": place.first}
    scenario.shoot(server, WORKLOADS[place.workload], **shot)


def all_cases():
    for step in ALL_AT_ONCE:
        for when in MOMENTS:
            fast = (step, when) == ("put", "after")
            yield pytest.param(step, when, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("step", "when"), [*all_cases()])
def test_given_a_workload_when_everything_is_killed_at_a_step_then_nothing_is_lost(
    server, step, when
):
    calls = (*WORKLOADS["steady"], *WORKLOADS["muled"])
    scenario.shoot(server, calls, step=step, when=when, everything=True)


def outside_cases():
    for step in OUTSIDE:
        for when in MOMENTS:
            fast = step in ("rename", "mark_in_spool")
            yield pytest.param(step, when, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("step", "when"), [*outside_cases()])
def test_given_a_caller_outside_when_it_is_killed_at_a_step_then_its_call_is_whole_or_not_at_all(
    server, step, when
):
    actions.revive(server)
    checker = Checker(server)
    token = actions.arm(server, step, when, kind="outside")
    options = {} if step in ("write", "rename", "wake") else {"priority": 1}
    if step == "wake_timekeeper":
        options = {"at": 0.3}
    code = actions.send_from_outside(server, "good", **options)
    actions.disarm(server)
    assert actions.was_fired(server, token), f"the step {step} doesn't occur in a call from outside"
    assert code == -9
    actions.send(server, "good", at=0.1)  # who keeps time looks again, and not a minute later
    checker.wait(scenario.PATIENCE_S)


def test_given_the_fault_points_when_compared_then_each_is_shot_at():
    assert {place.step for place in PLACES} == set(STEPS)
