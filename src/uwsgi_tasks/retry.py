"""The rules of retrying: how often, and how long to wait. Pure arithmetic."""

from __future__ import annotations

import random
from typing import NamedTuple

_LONGEST_CRASH_WAIT_S = 60.0
_LONGEST_WAIT_S = 1e9


def wait_after_crash(crashes: int) -> float:
    """Return the seconds to wait after a task's process died for that many times.

    The first re-run comes at once; the waits that follow double, up to a minute.

    Example:
        >>> [wait_after_crash(crashes) for crashes in (1, 2, 3, 4, 20)]
        [0.0, 1.0, 2.0, 4.0, 60.0]
    """
    return min(2.0 ** min(crashes - 2, 30), _LONGEST_CRASH_WAIT_S) if crashes > 1 else 0.0


class RetryPolicy(NamedTuple):
    """When a task that didn't succeed runs again.

    Attributes:
        executions: How often the task may run in all; ``None`` (nobody said) is once.
        wait: Seconds between an attempt and the next.
        backoff: Factor by which the wait grows with each attempt; ``None``: it doesn't.
        max_wait: Seconds that a grown wait never exceeds; ``None``: no ceiling.
        jitter: Seconds, up to which a random part is added to each wait.

    Example:
        Waits of 2, 6, 18, 20, 20 … seconds:

        >>> policy = RetryPolicy(executions=6, wait=2, backoff=3, max_wait=20)
        >>> [policy.wait_after(attempt) for attempt in (1, 2, 3, 4)]
        [2.0, 6.0, 18.0, 20.0]
    """

    executions: int | None = None
    wait: float = 0.0
    backoff: float | None = None
    max_wait: float | None = None
    jitter: float = 0.0

    def wait_after(self, attempt: int) -> float:
        """Return the seconds to wait after the attempt of that number (from 1)."""
        wait = float(self.wait)
        if self.backoff is not None:
            wait = self._grown(attempt - 1)
        if self.max_wait is not None:
            wait = min(wait, float(self.max_wait))
        if self.jitter:
            wait += random.uniform(0, self.jitter)  # noqa: S311  spreads load, keeps no secret
        return wait

    def _grown(self, steps: int) -> float:
        assert self.backoff is not None
        if not self.wait:
            return 0.0
        try:
            return min(float(self.wait) * float(self.backoff) ** steps, _LONGEST_WAIT_S)
        except OverflowError:
            return _LONGEST_WAIT_S

    def left_after(self, attempts: int) -> int:
        """Return how many executions are still allowed after that many attempts."""
        return max(0, (self.executions or 1) - attempts)
