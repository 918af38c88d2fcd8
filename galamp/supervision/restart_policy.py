"""How often a child may be started anew, and after how long: pure, told the time by its caller.

Loss --RestartPolicy.delay_s--> seconds until the next life, or None: given up
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WITHIN_S = 600.0
"""Losses are counted over so long."""
QUIET_S = 60.0
"""Who has lived so long without a loss is started anew at once; sooner, it waits."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 30.0
MOST_DIVERGED = 3
"""Lives that may end by what a child itself found wrong, such as parameters that diverged."""


@dataclass(frozen=True)
class Failure:
    """How a life ended: why, after how many agent steps, by its own word or by somebody else."""

    cause: str
    progress: int
    deliberate: bool = False
    external: bool = False


class RestartPolicy:
    """The losses of one child, and what follows from them."""

    def __init__(self, most: int) -> None:
        """Allow `most` restarts within `WITHIN_S`."""
        self._most = most
        self._times: deque[float] = deque()
        self._last: Failure | None = None
        self._deliberate = 0
        self.repeats = False
        """Whether the last loss was of the same kind, at the same place, as the one before it."""

    def expect_failure(self) -> None:
        """Take the next loss, whatever it is, for no repetition: it will come from outside."""
        self._last = None

    def delay_s(self, loss: Failure, now_s: float) -> float | None:
        """Take note of a loss; returns how long to wait before the next life, None for never.

        A child is given up when it has used up its restarts, or fails in the same way at the same
        place twice in a row: it would do so again. Where one was ended by others says nothing.
        """
        own = loss.progress > 0 and not loss.external
        self.repeats = again = loss == self._last and own
        self._last = loss
        self._deliberate += loss.deliberate
        self._times.append(now_s)
        while now_s - self._times[0] > WITHIN_S:
            self._times.popleft()
        if again or len(self._times) > self._most or self._deliberate > MOST_DIVERGED:
            return None
        recent = sum(now_s - then_s < QUIET_S for then_s in self._times) - 1
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (recent - 1)) if recent else 0.0
