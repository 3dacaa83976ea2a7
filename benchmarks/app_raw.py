"""The application of the benchmark on raw uWSGI."""

import pickle

import uwsgi
from bench_app import *  # noqa: F403  the driver evaluates in this module
from bench_app import arguments, bare_mule, bare_spooler

uwsgi.spooler = bare_spooler
uwsgi.mule_msg_hook = bare_mule


def spool(payload: bytes) -> None:
    """Queue a call in the spool."""
    uwsgi.spool({b"task": b"app.noop", b"body": payload})


def mule(payload: bytes) -> None:
    """Queue a call for the mule."""
    if not uwsgi.mule_msg(b"app.noop\0" + payload):
        raise RuntimeError("the mule's queue is full")


def items(first: int, number: int) -> list[bytes]:
    """Return what the calls of these slots get: arguments that are pickled already."""
    return [pickle.dumps((arguments(slot), {}), 5) for slot in range(first, first + number)]
