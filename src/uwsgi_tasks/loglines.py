"""The last lines that a task logged, kept in memory while it runs.

They are taken where ``logging`` makes its records, so that no logger and no handler of the
application is touched: one on the root logger would turn ``logging.basicConfig()`` into nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

_MOST_LENGTH = 500
_OURS = "uwsgi_tasks"


class LogLines:
    """The last lines of the run in hand.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self.lines: deque[str] = deque(maxlen=most)
        self.keeps = False

    def install(self) -> None:
        """Take the lines of this process from now on, while ``keeps`` is set."""
        make = logging.getLogRecordFactory()
        if getattr(make, "__name__", "") == "_kept_record":
            make = make.__wrapped__  # type: ignore[attr-defined]  # of the process that forked

        def _kept_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            if self.keeps and not record.name.startswith(_OURS):
                self.lines.append(_line(record))
            return record

        _kept_record.__wrapped__ = make  # type: ignore[attr-defined]
        logging.setLogRecordFactory(_kept_record)

    def take(self) -> tuple[str, ...]:
        """Return the lines of the run that ended, and forget them."""
        lines = self.lines
        if not lines:
            return ()
        found = tuple(lines)
        lines.clear()
        return found


def _line(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  what is logged is the task's, and so is its __str__
        text = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    return f"{clock} {record.levelname} {record.name}: {text}"[:_MOST_LENGTH]
