"""Recovery time of throughput after a fault: arithmetic on samples.

    (time, agent steps), ... --Throughput--> rates before --back_s--> seconds until recovery

Pure: no clock, no process. Throughput has recovered at the first time after a fault from which the
next `WINDOW_S` seconds reach `ENOUGH` of the median of undisturbed windows before the fault.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW_S = 2.0
ENOUGH = 0.9
GRID_S = 0.25
"""Windows start at multiples of this after the compared time."""
RECENT = 40
"""Number of undisturbed windows that give the throughput before a fault: machine speed drifts."""
HORIZON_S = 120.0
"""Throughput that has not recovered after this time counts as never recovered."""


class Span(NamedTuple):
    """Time in which a fault has an effect; `end_s` is infinite while it lasts."""

    start_s: float
    end_s: float


class Throughput:
    """Agent steps of all learners together over time."""

    def __init__(self) -> None:
        self._times, self._steps = array("d"), array("d")

    def add(self, now_s: float, agent_steps: int) -> None:
        """Add a sample; later than the last one."""
        self._times.append(now_s)
        self._steps.append(agent_steps)

    def rates(self, starts_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return agent steps per second of the windows that start then; NaN for incomplete ones."""
        times, steps = np.asarray(self._times), np.asarray(self._steps)
        ends_s = starts_s + WINDOW_S
        gained = np.interp(ends_s, times, steps) - np.interp(starts_s, times, steps)
        whole = (starts_s >= times[0]) & (ends_s <= times[-1])
        return np.where(whole, gained / WINDOW_S, np.nan)

    def usual(self, before_s: float, disturbed: Sequence[Span]) -> float | None:
        """Return the median rate of the last undisturbed windows before then; None if none."""
        if not self._times:
            return None
        starts_s = np.arange(before_s - WINDOW_S, self._times[0], -GRID_S)
        for span in disturbed:
            starts_s = starts_s[(starts_s + WINDOW_S <= span.start_s) | (starts_s >= span.end_s)]
        rates = self.rates(starts_s)
        known = rates[~np.isnan(rates)][:RECENT]
        return float(np.median(known)) if known.size else None

    def back_s(self, from_s: float, usual: float) -> float | None:
        """Return the seconds from then until throughput has recovered; None if it never has."""
        starts_s = np.arange(from_s, min(from_s + HORIZON_S, self._times[-1]), GRID_S)
        enough = np.nonzero(self.rates(starts_s) >= ENOUGH * usual)[0]
        return float(starts_s[enough[0]] - from_s) if enough.size else None


def statistics(values: Sequence[float | None]) -> dict[str, Any]:
    """Return median, p99 and maximum in seconds of the known values, and how many are unknown.

    For few values the p99 is the maximum: between two of them nothing was measured.
    """
    known = np.array([value for value in values if value is not None])
    if not known.size:
        return {"count": 0, "unknown": len(values), "p50": None, "p99": None, "max": None}
    return {
        "count": int(known.size),
        "unknown": len(values) - int(known.size),
        "p50": float(np.median(known)),
        "p99": float(np.percentile(known, 99, method="higher")),
        "max": float(known.max()),
    }
