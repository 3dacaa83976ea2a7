"""The application that the fault tests run, and how each of its tasks has to end."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """What is wanted of a task.

    Attributes:
        attempts: How often it starts when nothing dies.
        end: ``"ok"`` or ``"dead"``.
        mule: It goes to a mule.
    """

    attempts: int
    end: str
    mule: bool = False


KINDS = {
    "good": Kind(1, "ok"),
    "long": Kind(1, "ok"),
    "held": Kind(1, "ok"),
    "retries": Kind(3, "ok"),
    "retries_later": Kind(2, "ok"),
    "fifteen": Kind(15, "ok"),
    "stumbles": Kind(1, "ok"),
    "dies": Kind(1, "dead"),
    "exhausted": Kind(3, "dead"),
    "poison": Kind(1, "dead"),
    "muled": Kind(1, "ok", mule=True),
    "mule_retries": Kind(3, "ok", mule=True),
    "mule_retries_later": Kind(2, "ok", mule=True),
    "mule_stumbles": Kind(1, "ok", mule=True),
    "mule_dies": Kind(1, "dead", mule=True),
    "mule_poison": Kind(1, "dead", mule=True),
}

FILES = {"fault_points.py": Path(__file__).with_name("points.py").read_text()}

APP = """
import os, signal, time
from datetime import timedelta
import fault_points
import uwsgi_tasks
from uwsgi_tasks import get_current_task, task, TaskExecutor

fault_points.install()
SPOOLER, MULE = TaskExecutor.SPOOLER, TaskExecutor.MULE

def begin():
    this = get_current_task()
    note("started", id=this.id, name=this.name.rpartition(".")[2], attempt=this.attempt,
         again=this.redelivered, crashes=this.crashes, interruptions=this.interruptions)
    return this

def finish(this):
    note("finished", id=this.id, attempt=this.attempt)

def until(attempts):
    this = begin()
    if this.attempt < attempts:
        raise ValueError("not yet")
    finish(this)

@task(executor=SPOOLER)
def good():
    finish(begin())

@task(executor=SPOOLER)
def long(seconds):
    this = begin()
    time.sleep(seconds)
    finish(this)

@task(executor=SPOOLER)
def held(name="go"):
    this = begin()
    wait_for_file(name)
    finish(this)

@task(executor=SPOOLER, retry_count=3)
def retries():
    until(3)

@task(executor=SPOOLER, retry_count=2, retry_timeout=0.2)
def retries_later():
    until(2)

@task(executor=SPOOLER, retry_count=15)
def fifteen():
    until(15)

@task(executor=SPOOLER)
def dies():
    begin()
    raise ValueError("dies")

@task(executor=SPOOLER, retry_count=3)
def exhausted():
    begin()
    raise ValueError("exhausted")

def die():
    note("killed", how="kill", step="task", kind=fault_points.kind_of_process())
    os.kill(os.getpid(), signal.SIGKILL)

@task(executor=SPOOLER)
def stumbles():
    this = begin()
    if not this.redelivered:
        die()
    finish(this)

@task(executor=SPOOLER)
def poison():
    begin()
    die()

@task(executor=MULE)
def muled(seconds=0):
    this = begin()
    time.sleep(seconds)
    finish(this)

@task(executor=MULE, retry_count=3)
def mule_retries():
    until(3)

@task(executor=MULE, retry_count=2, retry_timeout=0.2)
def mule_retries_later():
    until(2)

@task(executor=MULE)
def mule_dies():
    begin()
    raise ValueError("dies")

@task(executor=MULE)
def mule_stumbles():
    this = begin()
    if not this.redelivered:
        die()
    finish(this)

@task(executor=MULE)
def mule_poison():
    begin()
    die()

def send(name, args=(), at=None, **options):
    if at is not None:
        options["at"] = timedelta(seconds=at)
    called = globals()[name].options(**options) if options else globals()[name]
    handle = called(*args)
    note("acknowledged", id=handle.id, name=name, executor=handle.executor.name,
         expires=options.get("expires", 0))
    return handle

def failure_of(name):
    try:
        send(name)
    except uwsgi_tasks.UwsgiTasksError as error:
        return type(error).__name__

def send_and_cancel(name, **options):
    handle = send(name, **options)
    note("cancelling", id=handle.id)
    note("cancelled", id=handle.id, taken=handle.cancel())
    return handle
"""
