"""Fault points: a process kills itself right before or right after one step of the library.

The tests put them in: their application imports this module (as ``fault_points``) before the fork
and calls ``install``, which wraps the functions below. Nothing of it is in the library.

A shot is a file ``fault`` in the test's directory: which step, before or after it, at which call,
in which kind of process, and whether the process dies alone. It is noted in the ledger, then fired
once; it may bring the next shot, for what is to recover from it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

STEPS: dict[str, tuple[str, str]] = {
    # calling
    "submit": ("engine", "Engine.submit"),
    "note_package": ("site", "Site.note_package"),
    "write": ("executors.spooler", "_write"),
    "rename": ("executors.spooler", "os.rename"),
    "wake": ("settling", "Settler.wake"),
    "wake_timekeeper": ("home", "Home.wake_timekeeper"),
    "wake_timekeeper_for": ("home", "Home.wake_timekeeper_for"),
    "wait": ("site", "Site.wait"),
    "put": ("store", "Store.put"),
    "pump": ("site", "Site.pump"),
    # running
    "on_file": ("handlers", "_on_file"),
    "take": ("consumer", "take"),
    "begin": ("inflight", "Inflight.begin"),
    "run": ("runner", "run"),
    "on_mule_message": ("handlers", "_on_mule_message"),
    "after_task": ("consumer", "after_task"),
    # settling
    "settle": ("settling", "Settler.settle"),
    "deliver": ("settling", "Settler.deliver"),
    "keep": ("letters", "Letters.keep"),
    "keep_story": ("letters", "Letters._keep_story"),
    "bury": ("settling", "Settler.bury"),
    "close": ("settling", "Settler.close"),
    "site_finish": ("site", "Site.finish"),
    "store_finish": ("store", "Store.finish"),
    "note_over": ("inflight", "Inflight.note_over"),
    "end": ("inflight", "Inflight.end"),
    "pump_if_any": ("settling", "Settler.pump_if_any"),
    # promoting
    "promote": ("site", "Site.promote_batch"),
    "promote_one": ("site", "Site.promote_one"),
    "prepare": ("executors.spooler", "prepare"),
    "enter": ("executors.spooler", "enter"),
    "mark_entered": ("store", "Store.mark_entered"),
    "mark_ready": ("store", "Store.mark_ready"),
    "enter_spool": ("site", "Site._enter_spool"),
    "submit_once": ("executors.spooler", "submit_once"),
    "link": ("executors.spooler", "os.link"),
    "unlink": ("executors.spooler", "os.unlink"),
    "mark_in_spool": ("store", "Store.mark_in_spool"),
    "take_back": ("store", "Store.take_back"),
    "tick": ("timekeeper", "Timekeeper.tick"),
    # recovering
    "look": ("recovery", "look"),
    "pass_over": ("recovery", "_pass_over"),
    "note_seen": ("inflight", "Inflight.note_seen"),
    "deliver_again": ("recovery", "deliver_again"),
    "clear": ("inflight", "Inflight.clear"),
    "claim": ("inflight", "Inflight.claim"),
    "recover_mules": ("recovery", "recover_mules"),
}
"""Name → module of the library, and what is wrapped there."""

_seen: dict[str, int] = {}


class _Os:
    """The module ``os`` as one module of the library sees it, some functions of it wrapped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def install() -> None:
    """Wrap every step."""
    for step, (module_name, path) in STEPS.items():
        owner: Any = importlib.import_module(f"uwsgi_tasks.{module_name}")
        *parents, name = path.split(".")
        for parent in parents:
            if parent == "os" and owner.os is os:
                owner.os = _Os()
            owner = getattr(owner, parent)
        setattr(owner, name, _wrapped(step, getattr(owner, name)))


def _wrapped(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _pass(step, "before")
        result = function(*args, **kwargs)
        _pass(step, "after")
        return result

    return wrapper


def _pass(step: str, when: str) -> None:
    path = os.path.join(os.environ["TEST_DIR"], "fault")
    try:
        with open(path, encoding="utf-8") as file:
            shot = json.load(file)
    except FileNotFoundError:
        return
    kind = kind_of_process()
    if (shot["step"], shot["when"]) != (step, when) or shot["kind"] not in ("any", kind):
        return
    _seen[shot["token"]] = _seen.get(shot["token"], 0) + 1
    if _seen[shot["token"]] < shot["n"]:
        return
    try:
        os.rename(path, f"{path}.{shot['token']}")
    except FileNotFoundError:
        return  # another process was faster
    if shot["then"]:
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(shot["then"], file)
        os.rename(f"{path}.new", path)
    from app_base import note

    what = {"step": step, "when": when, "kind": kind, "everything": shot["everything"]}
    note("killed", token=shot["token"], how="all" if shot["everything"] else "kill", **what)
    if shot["everything"] and kind != "outside":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def kind_of_process() -> str:
    """Return ``worker``, ``spooler``, ``mule``, ``master`` or ``outside``."""
    from app_base import place  # it is on the path of servers only, the names of steps aren't

    try:
        return place().rstrip("0123456789")
    except ImportError:
        return "outside"
