"""Charts as a figure: PNG, SVG or PDF.

    Charts --draw--> bytes of the file

matplotlib is imported only when something is drawn: it takes a second to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from galamp.tools.figures import CHART_STYLE, INK, QUIET, rendered
from galamp.tools.plot.charts import Chart, Line
from galamp.tools.plot.scale import beyond, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#d9730d", "#2a8a5b", "#b5377d", "#7a5cc0", "#8a6d1f", "#1797a6", "#c0262d")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""Colours, safe for colour-blind readers; from the ninth line on the dashes change, too."""

MARKERS = {
    "resume": ("^", "the run was started again"),
    "restart": ("x", "a process was restarted"),
}
DOT: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "white", "mew": 1.5, "ms": 6}
DOT_NOTE = "evaluation: mean score of whole games"
MAX_LEGEND = 12
"""Lines in a legend; of more, those of single learners are left out."""


def draw(charts: Sequence[Chart], kind: str) -> bytes:
    """Return a file with the charts, one above the other.

    Args:
        charts: at least one.
        kind: png, svg or pdf.

    Raises:
        UserError: matplotlib is not installed.
    """

    def figure() -> Figure:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
        whole = Figure(figsize=(10, 5.6 * len(charts)), dpi=150, layout=layout)
        all_axes = whole.subplots(len(charts), squeeze=False)[:, 0]
        for axes, chart in zip(all_axes, charts, strict=True):
            _chart(axes, chart)
        return whole

    return rendered(figure, kind, CHART_STYLE)


def _chart(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(chart.title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(chart.x_label)
    if not chart.lines:
        axes.text(0.5, 0.5, "nothing to draw yet", transform=axes.transAxes, ha="center")
        return
    edges = frame(chart)
    for line in sorted(chart.lines, key=lambda line: not line.thin):
        _line(axes, line)
    for name, value in chart.references.items():
        if edges[2] <= value <= edges[3]:
            axes.axhline(value, color=QUIET, lw=1.0, ls=(0, (2, 3)))
            place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(
                f"{name} {value:g}", (1, value), (-4, 3), ha="right", color=QUIET, **place
            )
    margin = 0.04 * (edges[3] - edges[2])
    axes.set_ylim(edges[2] - margin, edges[3] + margin)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if max(map(abs, edges[2:])) >= 10_000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    _legend(axes, chart, [*beyond(chart, edges), *chart.notes])


def _line(axes: Axes, line: Line) -> None:
    import numpy as np

    colour = COLOURS[line.colour % len(COLOURS)]
    dashes = DASHES[line.colour // len(COLOURS) % len(DASHES)]
    dots: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(line.x) <= 30 else {}
    width, alpha = (0.9, 0.55) if line.thin else (1.7, 1.0)
    axes.plot(
        line.x, line.y, ls=dashes, color=colour, lw=width, alpha=alpha, label=line.label, **dots
    )
    if len(line.low):
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, lw=0)
    if line.dots:
        axes.plot(*np.transpose(line.dots), mec=colour, zorder=2.5, **DOT)
    for kind, (marker, _) in MARKERS.items():
        at = [mark.x for mark in line.marks if mark.kind == kind]
        y = np.interp(at, line.x, line.y)
        axes.plot(at, y, marker, color=colour, ms=7, mec=INK, mew=0.9, zorder=3)


def _legend(axes: Axes, chart: Chart, notes: Sequence[str]) -> None:
    """Put the legend below the chart: lines if there are several, marks, and notes."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    named = chart.lines if len(chart.lines) <= MAX_LEGEND else _without_thin(chart)
    order = [line.label for line in named] if len(chart.lines) > 1 else []
    handles = [handles[labels.index(label)] for label in order]
    kinds = {mark.kind for line in chart.lines for mark in line.marks}
    for kind, (marker, text) in MARKERS.items():
        if kind in kinds:
            handles.append(Line2D([], [], ls="", marker=marker, color=QUIET, mec=INK, ms=7))
            order.append(text)
    if any(line.dots for line in chart.lines):
        handles.append(Line2D([], [], mec=QUIET, **DOT))
        order.append(DOT_NOTE)
    columns = 1 if notes or max(map(len, order), default=0) > 45 else 3
    if len(named) < len(chart.lines):
        notes = ["thin: the learners of each run", *notes]
    handles += [Line2D([], [], ls="") for _ in notes]
    if handles:
        place: Any = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "ncols": columns}
        axes.legend(handles, [*order, *notes], fontsize=9.5, **place)


def _without_thin(chart: Chart) -> tuple[Line, ...]:
    return tuple(line for line in chart.lines if not line.thin)
