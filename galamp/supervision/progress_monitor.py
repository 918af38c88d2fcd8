"""Progress monitor: how long a counter has stood still, compared with its usual gap.

Runs in the supervisor, for the heartbeat and the turns of every child. Pure: the caller passes the
time.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_TICK_S = 0.2
"""Longest time that one observation may add, should the supervisor itself have been stopped."""
MIN_USUAL_GAP_S = 0.05
"""A usual gap of 0 may grow to this at once."""
USUAL_GAP_DECAY = 0.99
"""Share of the usual gap that remains after each change of the counter."""


class ProgressMonitor:
    """Time since a counter last changed, counted only while the supervisor itself ran."""

    def __init__(self, count: Callable[[], int], usual_s: float = 0.0) -> None:
        """Observe `count`; `usual_s` is the usual gap that an earlier incarnation has shown."""
        self.still_s, self.usual_s = 0.0, usual_s
        self._count, self._last = count, count()

    def observe(self, passed_s: float, *, first: bool = False) -> None:
        """Record that `passed_s` more seconds have passed.

        A pause of the supervisor itself, as of a suspended machine, counts for `MAX_TICK_S` at
        most. The usual gap at most doubles per change: one long gap is not usual yet, and must not
        give a later hang more time. During the `first` work every gap counts as usual.
        """
        count = self._count()
        if count == self._last:
            self.still_s += min(passed_s, MAX_TICK_S)
        else:
            gap_s = self.still_s if first else min(self.still_s, 2 * self.usual_s + MIN_USUAL_GAP_S)
            self.usual_s = max(gap_s, USUAL_GAP_DECAY * self.usual_s)
            self.still_s = 0.0
        self._last = count

    def exceeds(self, timeout_s: float, gaps: float) -> bool:
        """Return whether the counter has not changed for max(timeout_s, gaps x usual gap)."""
        return self.still_s > max(timeout_s, gaps * self.usual_s)
