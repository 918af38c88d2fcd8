"""Restart policy: how often and how soon a failed child is restarted.

    Failure --RestartPolicy.delay_s--> seconds until the next incarnation; None: give the child up

Pure: the caller passes the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 600.0
"""Failures are counted over this time."""
QUIET_S = 60.0
"""After this time without a failure, the next one leads to an immediate restart; else to a delay.
"""
FIRST_DELAY_S, MAX_DELAY_S = 0.25, 30.0
MAX_DIVERGED = 3
"""Failures that a child itself may report, such as diverged parameters, before it is given up."""


@dataclass(frozen=True)
class Failure:
    """How an incarnation ended.

    Attributes:
        cause: one line.
        progress: agent steps that it made.
        deliberate: whether the child itself reported it.
        external: whether its cause was outside the child.
    """

    cause: str
    progress: int
    deliberate: bool = False
    external: bool = False


class RestartPolicy:
    """Failure history of one child, and the restart decision that follows from it."""

    def __init__(self, max_restarts: int) -> None:
        """Allow `max_restarts` restarts within `WINDOW_S`."""
        self._max_restarts = max_restarts
        self._times: deque[float] = deque()
        self._last: Failure | None = None
        self._deliberate = 0
        self.repeats = False
        """Whether the last two failures were equal, at the same agent step."""

    def expect_failure(self) -> None:
        """Take the next failure for no repetition: it will be injected from outside."""
        self._last = None

    def delay_s(self, failure: Failure, now_s: float) -> float | None:
        """Record a failure; returns the delay before the restart in seconds, None: do not restart.

        A child is given up when it has used up its restarts, or fails twice in a row in the same
        way at the same agent step: it would do so again. External ends do not count as such a
        repetition.
        """
        own = failure.progress > 0 and not failure.external
        self.repeats = again = failure == self._last and own
        self._last = failure
        self._deliberate += failure.deliberate
        self._times.append(now_s)
        while now_s - self._times[0] > WINDOW_S:
            self._times.popleft()
        if again or len(self._times) > self._max_restarts or self._deliberate > MAX_DIVERGED:
            return None
        recent = sum(now_s - then_s < QUIET_S for then_s in self._times) - 1
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (recent - 1)) if recent else 0.0
