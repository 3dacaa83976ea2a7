"""Messages for tests that need one and don't care which."""

from __future__ import annotations

import itertools
from typing import Any

from uwsgi_tasks import wire
from uwsgi_tasks.model import Message

_numbers = itertools.count(1)


def a_message(task: str = "app.task", args: Any = (), kwargs: Any = None, **fields: Any) -> Message:
    """Return a message with arguments; any field may be given."""
    number = next(_numbers)
    ident = fields.pop("id", f"{1_700_000_000 * 10**9 + number:019d}-{number:016x}")
    serializer = fields.pop("serializer", "pickle")
    payload = wire.dump((tuple(args), kwargs or {}), serializer)
    values = {"created_at": 1_700_000_000.0, "chain": ident, **fields}
    return Message(ident, task, payload, serializer, **values)
