"""What is drawn, as plain values: lines, bands, marks and reference scores of one metric.

Run or Group --chart--> Chart --> terminal.py (text), figure.py (PNG, SVG, PDF)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from galamp.storage.eval_log import Evaluation
from galamp.storage.run_history import FRAMES, STEP, WALL_S, RunHistory
from galamp.tools.plot.groups import Group
from galamp.tools.plot.metrics import SCORE, TITLES, of_learners
from galamp.tools.plot.runs import Run

Numbers = NDArray[np.float64]

AXES = {"steps": (STEP, 1.0), "frames": (FRAMES, 1.0), "hours": (WALL_S, 3600.0)}
"""Name of an x axis -> column of the history, and what it is divided by."""

AXIS_LABELS = {
    "steps": "agent steps",
    "frames": "emulator frames",
    "hours": "hours of training",
}

BANDS = {
    "stderr": "mean ± standard error over seeds",
    "bootstrap": "mean and 95 % bootstrap interval over seeds",
}
GRID = 300
"""Points of a mean over runs."""
RESAMPLES = 2000
MAX_MARKS = 50
"""Marks of a line; of more, those at the end are shown."""


@dataclass(frozen=True)
class Mark:
    """Something that happened: `restart` of a process, or `resume`, a later start of the run."""

    kind: str
    x: float


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        x, y: its points, finite, x not falling.
        low, high: its band at these points; empty if it has none.
        colour: number of its colour; lines of one run have the same.
        thin: whether it is one learner's.
        dots: points (x, y) of single evaluations of the same run.
    """

    label: str
    x: Numbers
    y: Numbers
    colour: int
    low: Numbers = field(default_factory=lambda: np.empty(0))
    high: Numbers = field(default_factory=lambda: np.empty(0))
    thin: bool = False
    marks: tuple[Mark, ...] = ()
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """One metric over one axis.

    Attributes:
        references: name -> score of reference players, drawn across.
        notes: what a reader must know, one line each.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    references: dict[str, float]
    notes: tuple[str, ...] = ()


def chart_of_runs(runs: Sequence[Run], metric: str, axis: str, per_learner: bool) -> Chart:
    """Return one line per run, with its marks, and on request a thin line per learner.

    Raises:
        UserError: the metric is not kept per learner.
    """
    lines: list[Line] = []
    for colour, run in enumerate(runs):
        history, several = run.history, len(runs) > 1
        name = run.label if several or not per_learner else "all learners"
        x, y = curve(history, metric, axis)
        found = dots(run.evaluations(), axis) if metric == SCORE else ()
        lines.append(Line(name, x, y, colour, marks=marks(history, axis), dots=found))
        for rank, column in of_learners(history.names, metric) if per_learner else ():
            x, y = curve(history, column, axis)
            label = f"{run.label} learner {rank}" if several else f"learner {rank}"
            lines.append(Line(label, x, y, colour if several else rank + 1, thin=True))
    shown = tuple(line for line in lines if len(line.x))
    missing = [line.label for line in lines if not len(line.x) and not line.thin]
    notes = tuple(f"nothing to draw yet: {name}" for name in missing)
    return Chart(TITLES.get(metric, metric), AXIS_LABELS[axis], shown, {}, notes)


def chart_of_groups(groups: Sequence[Group], metric: str, axis: str, band: str) -> Chart:
    """Return the mean of each group's runs, with its band, where all of the runs have values."""
    lines, notes = [], []
    for colour, group in enumerate(groups):
        curves = [curve(run.history, metric, axis) for run in group.runs]
        curves = [(x, y) for x, y in curves if len(x)]
        count = f"{len(curves)} run{'s' * (len(curves) != 1)}"
        if len(curves) < len(group.runs):
            notes.append(f"{group.label}: nothing to draw yet in {len(group.runs) - len(curves)}")
        line = mean_line(f"{group.label} ({count})", curves, colour, band)
        if line is None and curves:
            notes.append(f"{group.label}: its runs have no {AXIS_LABELS[axis]} in common")
        lines += [line] if line is not None else []
    if any(len(line.low) for line in lines):
        notes.append(f"band: {BANDS[band]}; each line is as long as its shortest run")
    return Chart(TITLES.get(metric, metric), AXIS_LABELS[axis], tuple(lines), {}, tuple(notes))


def curve(history: RunHistory, column: str, axis: str) -> tuple[Numbers, Numbers]:
    """Return the finite points of a column over an axis."""
    of, unit = AXES[axis]
    x, y = history.column(of) / unit, history.column(column)
    known = np.isfinite(x) & np.isfinite(y)
    return np.maximum.accumulate(x[known]), y[known]


def marks(history: RunHistory, axis: str) -> tuple[Mark, ...]:
    """Return restarts of processes and later starts of the run, at the axis' values."""
    of, unit = AXES[axis]
    x = history.column(of) / unit
    found = [Mark("restart", x[at]) for at in history.restarts()]
    found += [Mark("resume", x[at]) for at in history.resumes if at < len(x)]
    return tuple(mark for mark in found if np.isfinite(mark.x))[-MAX_MARKS:]


def dots(evaluations: Sequence[Evaluation], axis: str) -> tuple[tuple[float, float], ...]:
    """Return the mean scores of evaluations while a run trained, at the axis' values."""
    of = {
        "steps": [float(each.agent_steps) for each in evaluations],
        "frames": [float(each.emulator_frames) for each in evaluations],
        "hours": [each.wall_s / 3600.0 for each in evaluations],
    }
    return tuple(zip(of[axis], (each.mean for each in evaluations), strict=True))


def mean_line(
    label: str, curves: Sequence[tuple[Numbers, Numbers]], colour: int, band: str
) -> Line | None:
    """Return the mean of several curves where all have values; None where there is no such x."""
    if len(curves) == 1:
        return Line(label, *curves[0], colour)
    left = max((x[0] for x, _ in curves), default=1.0)
    right = min((x[-1] for x, _ in curves), default=0.0)
    if left > right:
        return None
    x = np.linspace(left, right, GRID)
    each = np.array([np.interp(x, *points) for points in curves])
    return Line(label, x, each.mean(axis=0), colour, *_band(each, band))


def _band(each: Numbers, band: str) -> tuple[Numbers, Numbers]:
    """Return the lower and upper edge of the band around the mean of `each` [runs, points]."""
    runs = len(each)
    if band == "stderr":
        error = each.std(axis=0, ddof=1) / np.sqrt(runs)
        return each.mean(axis=0) - error, each.mean(axis=0) + error
    drawn = np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))
    weights = np.apply_along_axis(np.bincount, 1, drawn, minlength=runs) / runs
    low, high = np.percentile(weights @ each, [2.5, 97.5], axis=0)
    return low, high


def with_references(chart: Chart, metric: str, runs: Sequence[Run]) -> Chart:
    """Return the chart of a score with the scores of a random player and of a human.

    Only of one Atari game; where the run's protocol differs from the published one a note says so.
    """
    from dataclasses import replace

    from galamp.tools.plot.references import references

    if metric != SCORE:
        return chart
    found, note = references(runs)
    notes = (*chart.notes, note) if note else chart.notes
    return replace(chart, references=found, notes=notes)
