"""Rows of schedules for tests that need one."""

from __future__ import annotations

import json
from typing import Any

from uwsgi_tasks import wire
from uwsgi_tasks.model import DECLARED, Schedule, ScheduleOptions

from .messages import a_message


def a_schedule(name: str = "app.timer", signer: Any = None, **fields: Any) -> Schedule:
    """Return a row; any field may be given (options as a dict), and ``args`` of its message."""
    options = fields.pop("options", {})
    said = {key: fields.pop(key) for key in ("priority", "queue", "on_disk") if key in fields}
    message = a_message(name, fields.pop("args", (4711,)), fields.pop("kwargs", None), **said)
    next_at = fields.pop("next_at", 100.0)
    values: dict[str, Any] = {
        "task": name,
        "origin": DECLARED,
        "module": name.rpartition(".")[0],
        "incarnation": "1",
        "rule": json.dumps(fields.pop("rule", ["every", 10])),
        "target": "",
        "number": 4711,
        "envelope": b"" if signer is None else wire.pack(message, signer),
        "options": json.dumps(ScheduleOptions(**options)),
        "iterations": None,
        "active": True,
        "paused": False,
        "moment": next_at,
        "next_at": next_at,
        **fields,
    }
    return Schedule(name, **values)
