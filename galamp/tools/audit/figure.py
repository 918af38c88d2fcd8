"""Figure of an audit: distances, certificates and their ratio, over agent steps.

Runs in the process of `galamp audit`; matplotlib is loaded only when something is drawn.

    Series --draw--> content of a PNG, SVG or PDF file
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from galamp.telemetry.display.quantities import (
    CERTIFICATE,
    CONSENSUS_DISTANCE,
    PAIRWISE_DISTANCE,
    RADIUS,
)
from galamp.tools.audit.audit import Series
from galamp.tools.figures import CHART_STYLE, FORMATS, QUIET, rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALARM = "#c0262d"
COLOURS = {"pairwise": "#1f5fa8", "to_mean": "#d9730d"}
"""Safe for colour-blind readers; a measured line is solid, its certificate dashed."""

LABELS = {"pairwise": PAIRWISE_DISTANCE, "to_mean": f"{CONSENSUS_DISTANCE} (rms)"}
RATIO_LABELS = {
    "pairwise": PAIRWISE_DISTANCE,
    "to_mean": f"{CONSENSUS_DISTANCE} (worst learner)",
}


def draw(series: Series, title: str, format: str = FORMATS[0]) -> bytes:
    """Return the figure, as a PNG of 1,500 x 1,125 pixels.

    Args:
        series: at least one measurement.
        title: description of the run, one line.
        format: one of `figures.FORMATS`.

    Raises:
        UserError: matplotlib is not installed.
    """
    return rendered(lambda: _figure(series, title), format, CHART_STYLE)


def _figure(series: Series, title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import EngFormatter

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    figure = Figure(figsize=(10, 7.5), dpi=150, layout=layout)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[1.7, 1])
    _distances(top, series)
    _ratios(bottom, series)
    bottom.set_xlabel("agent steps")
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    heading = "Distances between the learners, and their certificates"
    top.set_title(heading, loc="left", fontsize=15, fontweight="bold", pad=30)
    place: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
    # A run's name may hold dollar signs, which would be read as formulas.
    top.annotate(title, (0, 1), (0, 12), color=QUIET, parse_math=False, **place)
    return figure


def _distances(axes: Axes, series: Series) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = _broken(series, "step")
    for name, colour in COLOURS.items():
        bound = _positive(_broken(series, f"{name}_bound"))
        measured = _positive(_broken(series, name))
        mark = _mark(series)
        label = LABELS[name]
        axes.plot(steps, bound, "--", color=colour, label=f"{label}: {CERTIFICATE}", lw=1.4, **mark)
        axes.plot(steps, measured, color=colour, label=f"{label}: measured", lw=1.4, **mark)
        axes.fill_between(steps, measured, bound, color=colour, alpha=0.07, lw=0)
    radius = _positive(_broken(series, "radius"))
    if np.isfinite(radius).any():
        axes.plot(steps, radius, ":", color=QUIET, label=f"{RADIUS}, in theory", lw=1.2)
    # Learners that never moved are at distance 0, which a logarithmic axis refuses.
    if any(np.any(series.column(name) > 0) for name in COLOURS):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("L2 distance between parameters")
    _starts(axes, series)
    # Column by column: a quantity each, then the radius.
    axes.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, -0.01), fontsize=9.5)


def _ratios(axes: Axes, series: Series) -> None:
    steps = _broken(series, "step")
    greatest = 0.0
    for name, colour in COLOURS.items():
        ratio = _broken(series, f"{name}_ratio")
        label = RATIO_LABELS[name]
        axes.plot(steps, ratio, color=colour, label=label, lw=1.3, **_mark(series))
        greatest = max(greatest, float(np.max(ratio[np.isfinite(ratio)], initial=0.0)))
    axes.axhline(1.0, color=ALARM, lw=1.2, ls=(0, (4, 2)))
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("above this line: violation", (0, 1), (8, 7), color=ALARM, fontsize=9.5, **place)
    axes.set_ylim(0, 1.3 if greatest <= 1 else 1.3 * min(greatest, 10.0))
    axes.set_ylabel(f"measured / {CERTIFICATE}")
    _starts(axes, series)
    axes.legend(ncols=2, loc="upper right", fontsize=9.5)


def _starts(axes: Axes, series: Series) -> None:
    """Draw a vertical line at each resume of the run."""
    start, step = series.column("start"), series.column("step")
    for index in np.flatnonzero(np.diff(start)) + 1:
        axes.axvline(step[index], color=QUIET, lw=0.8, ls=":")


def _broken(series: Series, name: str) -> NDArray[np.float64]:
    """Return a column with NaN between starts: no line connects one to the next."""
    starts = np.flatnonzero(np.diff(series.column("start"))) + 1
    return np.insert(series.column(name), starts, np.nan)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values that a logarithmic axis can show."""
    return np.where(values > 0, values, np.nan)


def _mark(series: Series) -> dict[str, Any]:
    """Return the style of dots for a few measurements: a single one makes no line."""
    return {"marker": "o", "ms": 3.5} if len(series) <= 30 else {}
