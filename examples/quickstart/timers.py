"""The shop's schedules: a timer that a button starts, and a cron that another one starts."""

from __future__ import annotations

from ledger import recorded

from uwsgi_tasks import cron_lazy, timer_lazy


@timer_lazy(seconds=1, iterations=3)
@recorded("timer")
def check_stock(signal_number: int) -> str:
    """Run three times, a second apart, after the button was pressed."""
    return "counted the shelves"


@cron_lazy(minute=-1, target="mule")
@recorded("cron")
def close_the_minute(signal_number: int) -> str:
    """Run at the start of each minute, in the mule, until it is stopped."""
    return "closed the minute's books"
