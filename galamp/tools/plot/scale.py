"""Range of a chart.

    Chart --frame--> left, right, low, high --telemetry.display.ticks--> labels of its axes

Pure.
"""

from __future__ import annotations

import numpy as np

from galamp.telemetry.display.text import Frame
from galamp.tools.plot.charts import Chart

OUTLIERS = 20.0
"""A range so many times that of 96 % of the values is that of outliers."""


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
