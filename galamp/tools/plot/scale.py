"""Range of a chart, and round numbers for its axes.

    Chart --frame--> left, right, low, high --ticks--> 0, 50, 100 --tick_labels--> "0", "50", "100"

Pure.
"""

from __future__ import annotations

import math

import numpy as np

from galamp.telemetry.display.text import Frame
from galamp.tools.plot.charts import Chart

OUTLIERS = 20.0
"""A range so many times that of 96 % of the values is that of outliers."""
SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def frame(chart: Chart) -> Frame:
    """Return the values at the edges of a chart of at least one line.

    Outliers stay outside, and so do reference scores that would make the lines flat.
    """
    points = [np.reshape(line.dots, (-1, 2)).T for line in chart.lines]
    x = np.concatenate([line.x for line in chart.lines] + [across for across, _ in points])
    y = np.concatenate(
        [part for line in chart.lines for part in (line.y, line.low, line.high)]
        + [up for _, up in points]
    )
    low, high = float(y.min()), float(y.max())
    core_low, core_high = map(float, np.percentile(y, [2, 98]))
    if core_high > core_low and high - low > OUTLIERS * (core_high - core_low):
        margin = core_high - core_low
        low, high = max(low, core_low - margin), min(high, core_high + margin)
    span = high - low or max(abs(high), 1.0)
    for value in chart.references.values():
        if low - span <= value <= high + span:
            low, high = min(low, value), max(high, value)
    if high <= low:
        low, high = low - span / 2, high + span / 2
    left, right = float(x.min()), float(x.max())
    return left, right if right > left else left + 1.0, low, high


def beyond(chart: Chart, edges: Frame) -> list[str]:
    """Return what lies outside a chart, one line each."""
    _, _, low, high = edges
    notes = []
    for name, value in chart.references.items():
        if not low <= value <= high:
            notes.append(f"{name} {value:g} is {'above' if value > high else 'below'} the chart")
    y = np.concatenate([line.y for line in chart.lines])
    if outside := int(np.count_nonzero((y < low) | (y > high))):
        notes.append(f"{outside:,} of {len(y):,} values are outliers beyond the chart's edges")
    return notes


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
