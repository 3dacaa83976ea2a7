"""Types of parameters, and options that many commands have."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta
from typing import Any

import click

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

json_option = click.option("--json", "as_json_", is_flag=True, help="Show JSON, with stable keys.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


class Age(click.ParamType):  # type: ignore[type-arg]
    """A duration: ``90``, ``90s``, ``15m``, ``2h``, ``7d``; its value is seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is no duration: write 90s, 15m, 2h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A moment: ISO (local time without a zone), epoch seconds, or ``+15m`` from now."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a ``datetime`` or epoch seconds."""
        if value.startswith("+"):
            return time.time() + AGE.convert(value[1:], param, ctx)
        try:
            return float(value)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            self.fail(f"{value!r} is no moment: write 2026-12-31T18:00 or +15m", param, ctx)


class Json(click.ParamType):  # type: ignore[type-arg]
    """JSON of a kind.

    Args:
        kind: ``list`` or ``dict``.
    """

    name = "json"

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.word = "[…]" if kind is list else "{…}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the JSON says."""
        if isinstance(value, self.kind):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value!r}: JSON {self.word} is needed", param, ctx)
        return found


AGE = Age()
MOMENT = Moment()


def seconds(value: float | timedelta) -> float:
    """Return a duration as seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value
