"""Figure of a graph: learners on a circle with arrows, or a receiver-sender matrix.

    Plan --draw--> content of a PNG, SVG or PDF file

Runs in the process of `galamp topology`; matplotlib is loaded only when something is drawn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from galamp.core.sanitize import clean
from galamp.telemetry.display.text import clip_path
from galamp.tools.figures import rendered
from galamp.tools.topology.analysis import Plan
from galamp.tools.topology.ascii_graph import MAX_ON_A_CIRCLE, hears

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES, DOTS_PER_INCH = 7.0, 160
INK, PALE = "#1f3a5f", "#f5f7fa"
EDGE, NODE = "#3d7ea6", "#e4572e"
MAX_CELLS = 1024
REACH = 1.14
"""Edge of the drawing, where the learners' circle has radius 1."""


def draw(plan: Plan, format: str) -> bytes:
    """Return the figure of a graph in one of `figures.FORMATS`.

    Raises:
        UserError: matplotlib is not installed.
    """
    return rendered(lambda: _figure(plan), format)


def _figure(plan: Plan) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES, INCHES), dpi=DOTS_PER_INCH, facecolor="white")
    axes = figure.add_axes((0.09, 0.06, 0.84, 0.84))
    if plan.rounds.size <= MAX_ON_A_CIRCLE:
        _circle(axes, plan)
    else:
        _matrix(axes, plan)
    size = f"{plan.rounds.size:,} learners"
    many = f", all links of {plan.rounds.shown} rounds" if plan.rounds.shown > 1 else ""
    figure.suptitle(f"{_name(plan)}, {size}{many}", color=INK, fontsize=14, y=0.97)
    return figure


def _name(plan: Plan) -> str:
    """Return the graph's name; a dollar sign would begin a formula."""
    name = clip_path(clean(plan.question.name), 40)
    return name.replace("$", r"\$")


def _circle(axes: Any, plan: Plan) -> None:
    from matplotlib.patches import FancyArrowPatch

    size = plan.rounds.size
    angles = [math.pi / 2 - 2 * math.pi * rank / size for rank in range(size)]
    positions = np.array([(math.cos(angle), math.sin(angle)) for angle in angles])
    seen = hears(plan.rounds, size)
    radius = min(0.11, 0.75 * math.pi / size)
    points = radius * INCHES * 0.84 / (2 * REACH) * 72  # of a node, in points
    width = max(0.5, 1.8 - seen.sum() / 150)
    for receiver, sender in np.argwhere(seen):
        both = bool(seen[sender, receiver])
        if both and receiver < sender:
            continue
        axes.add_patch(
            FancyArrowPatch(
                positions[sender],
                positions[receiver],
                arrowstyle="<|-|>" if both else "-|>",
                connectionstyle=f"arc3,rad={0.0 if both else 0.08}",
                shrinkA=points + 1,
                shrinkB=points + 1,
                mutation_scale=6 + 5 * width,
                linewidth=width,
                color=EDGE,
                alpha=0.85 if seen.sum() < 100 else 0.6,
            )
        )
    axes.scatter(*positions.T, s=(2 * points) ** 2, color=NODE, zorder=3)
    for rank, (x, y) in enumerate(positions):
        axes.text(
            x, y, str(rank), ha="center", va="center_baseline", color="white",
            fontsize=max(6.0, min(13.0, points * 0.95)), zorder=4,
        )  # fmt: skip
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    axes.axis("off")


def _matrix(axes: Any, plan: Plan) -> None:
    from matplotlib.colors import ListedColormap

    axes.set_position((0.1, 0.04, 0.84, 0.84))
    size = plan.rounds.size
    seen = hears(plan.rounds, MAX_CELLS)
    edges = (-0.5, size - 0.5, size - 0.5, -0.5)
    colours = ListedColormap([PALE, INK])
    axes.imshow(seen, cmap=colours, vmin=0, vmax=1, extent=edges, interpolation="nearest")
    axes.set_xlabel("sends", color=INK)
    axes.set_ylabel("hears", color=INK)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
