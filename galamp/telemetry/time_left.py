"""Time left of a run, at a rate that changes slowly.

    (time, agent steps), ... --TimeLeft--> seconds, None until it is known

Pure: the caller brings the clock.
"""

from __future__ import annotations

from galamp.core.throughput import ThroughputMeter

WINDOW_S = 120.0
"""The rate is that of the last two minutes."""
WARM_S = 8.0
"""Nothing is said before the rate is that of so many seconds."""
HOLD = 0.1
"""An estimate that differs by less from the former one, minus the time that has passed, is kept."""


class TimeLeft:
    """Time left until a number of agent steps."""

    def __init__(self) -> None:
        self._meter = ThroughputMeter(WINDOW_S)
        self._ends_s: float | None = None

    def restart(self) -> None:
        """Measure from now on: before, not all learners ran."""
        self._meter.restart()
        self._ends_s = None

    def add(self, now_s: float, agent_steps: int) -> None:
        """Add a sample."""
        self._meter.add(now_s, agent_steps)

    def seconds(self, now_s: float, steps_left: int) -> float | None:
        """Return the time left; None until the rate is known."""
        rate = self._meter.rate
        if self._meter.seconds < WARM_S or rate <= 0:
            return None
        estimate_s = max(0, steps_left) / rate
        kept_s = None if self._ends_s is None else self._ends_s - now_s
        if kept_s is None or abs(kept_s - estimate_s) > HOLD * estimate_s:
            self._ends_s, kept_s = now_s + estimate_s, estimate_s
        return max(0.0, kept_s)
