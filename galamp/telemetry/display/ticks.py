"""Round numbers for the axes of a chart, and a range that outliers do not stretch. Pure.

low, high --ticks--> 0, 50, 100 --tick_labels--> "0", "50", "100"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
CORE = (5.0, 95.0)
"""Percentiles between which the values lie that decide the range."""


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` multiples of 1, 2, 2.5 or 5 times a power of ten in `low`..`high`."""
    raw = (high - low) / max(1, most)
    if not math.isfinite(raw) or raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9)
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)][:most]


def tick_labels(values: list[float]) -> list[str]:
    """Return the numbers with the same suffix and as many decimals as their distance needs."""
    most = max((abs(value) for value in values), default=0.0)
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) if values else 1.0
    if 0 < step < 1e-4 or most >= 1e15:
        return [f"{value:.2g}" if value else "0" for value in values]
    unit, suffix = next(
        ((u, s) for u, s in SUFFIXES if most >= 10 * u or (most >= u > 1e3)), (1, "")
    )
    decimals = len(f"{step / unit:.6g}".partition(".")[2])
    return [f"{value / unit:.{decimals}f}{suffix if value else ''}" for value in values]


def robust_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest value to draw: half the core's range beyond it at most.

    One value only, or none, stands in the middle of a range of its own size.
    """
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    core_low, core_high = map(float, np.percentile(values, CORE))
    if core_high > core_low:
        margin = (core_high - core_low) / 2
        low, high = max(low, core_low - margin), min(high, core_high + margin)
    if high > low:
        return low, high
    around = abs(high) / 2 or 1.0
    return low - around, high + around
