"""Chart of a metric over agent steps: lines in braille, round numbers at both axes.

    MetricHistory or curve --lines_of--> ChartLine, ... --chart--> lines of coloured text

Pure. The range follows the bulk of the values: what lies far outside is drawn at the edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.text import Text

from galamp.telemetry.display.text import Frame, line_chart
from galamp.telemetry.display.ticks import robust_range, tick_labels, ticks
from galamp.telemetry.snapshot import MetricHistory, Snapshot

GUTTER = 7
"""Columns for the numbers of the y axis."""
LEARNER_STYLES = ("blue", "yellow", "magenta", "green", "red", "bright_black")
MEAN_STYLE = "bold cyan"
LEAST_WIDTH, LEAST_HEIGHT = 40, 2
ROWS_WITH_AXIS = 5
"""Charts of fewer rows have no line of ticks, only its numbers."""


@dataclass(frozen=True)
class Metric:
    """A metric that can be charted: what it is called, and its name in metrics.jsonl."""

    title: str
    name: str
    per_learner: str = ""
    """Its name after `learner<r>/`; empty where learners have none."""
    second: str = ""
    """Another metric in the same chart: a bound."""


SCORE = "charts/episodic_return"
METRICS = (
    Metric("score, mean of the last 100 episodes", SCORE, "episodic_return"),
    Metric("episode length, agent steps", "charts/episodic_length"),
    Metric("agent steps/s", "charts/SPS", "SPS"),
    Metric("policy loss", "losses/policy_loss"),
    Metric("value loss", "losses/value_loss"),
    Metric("entropy", "losses/entropy"),
    Metric("grad norm, before clipping", "losses/grad_norm"),
    Metric("consensus distance", "gossip/consensus_distance", "distance"),
    Metric(
        "pairwise distance, dashed: its certificate",
        "gossip/pairwise_distance",
        second="gossip/certificate",
    ),
    Metric("staleness, rounds", "gossip/staleness", "staleness"),
    Metric("GPU power, W", "system/watts"),
)
"""Metrics in the order of the key `m`; those without values are passed over."""
RESTARTS = "charts/restarts"
CHARTED = (
    *dict.fromkeys(name for metric in METRICS for name in (metric.name, metric.second) if name),
    RESTARTS,
)
CHARTED_PER_LEARNER = tuple(metric.per_learner for metric in METRICS if metric.per_learner)


@dataclass(frozen=True)
class ChartLine:
    """One line: its (agent steps, value), its style, and whether it is dashed."""

    points: tuple[tuple[float, float], ...]
    style: str
    dashed: bool = False


def known_metrics(snapshot: Snapshot) -> list[Metric]:
    """Return the metrics that have values; the score is always among them."""
    history = snapshot.history
    columns = history.columns if history else {}
    return [m for m in METRICS if m.name == SCORE or _points(history, columns.get(m.name))]


def score_chart(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Return the chart of the score."""
    return metric_chart(snapshot, METRICS[0], width, height)


def metric_chart(snapshot: Snapshot, metric: Metric, width: int, height: int) -> list[Text]:
    """Return the chart of a metric, with a mark at every restart of a process."""
    lines, marks = lines_of(snapshot, metric), restarts_of(snapshot)
    return [line.copy() for line in chart(lines, width, height, marks)]


def restarts_of(snapshot: Snapshot) -> tuple[float, ...]:
    """Return the agent steps at which processes were started anew, as closely as rows are kept."""
    history = snapshot.history
    counts = _points(history, history.columns.get(RESTARTS) if history else None)
    pairs = itertools.pairwise([(0.0, 0.0), *counts])
    return tuple(step for (_, before), (step, now) in pairs if now > before)


def lines_of(snapshot: Snapshot, metric: Metric) -> tuple[ChartLine, ...]:
    """Return a line per learner, thin, and the mean or total on top."""
    history = snapshot.history
    columns = history.columns if history else {}
    lines = []
    if metric.per_learner and len(snapshot.learners) > 1:
        for rank in range(len(snapshot.learners)):
            points = _points(history, columns.get(f"learner{rank}/{metric.per_learner}"))
            lines.append(ChartLine(points, LEARNER_STYLES[rank % len(LEARNER_STYLES)]))
    if metric.second:
        lines.append(ChartLine(_points(history, columns.get(metric.second)), "yellow", True))
    mean = _points(history, columns.get(metric.name))
    if metric.name == SCORE:
        mean = snapshot.curve or mean
    if not (
        metric.name == "charts/SPS" and any(line.points for line in lines)
    ):  # the total is of another size
        lines.append(ChartLine(mean, MEAN_STYLE))
    return tuple(line for line in lines if line.points)


def _points(
    history: MetricHistory | None, values: tuple[float | None, ...] | None
) -> tuple[tuple[float, float], ...]:
    if history is None or values is None:
        return ()
    pairs = zip(history.steps, values, strict=False)
    return tuple((step, value) for step, value in pairs if value is not None)


@lru_cache(maxsize=16)
def chart(
    lines: tuple[ChartLine, ...], width: int, height: int, restarts: tuple[float, ...] = ()
) -> tuple[Text, ...]:
    """Return `height` lines of at most `width` cells; none where that would not be readable.

    `restarts` are agent steps; an axis with ticks has a mark at each that is within the chart. What
    is returned is shared between calls, and not to be changed.
    """
    if height < LEAST_HEIGHT or width < LEAST_WIDTH:
        return ()
    finite = [[p for p in line.points if p[1] - p[1] == 0] for line in lines]
    if not any(finite):
        middle = [Text()] * (height // 2) + [Text("no score yet".center(width), "dim")]
        return tuple(middle + [Text()] * (height - len(middle)))
    axis_rows = 2 if height >= ROWS_WITH_AXIS else 1
    rows, room = height - axis_rows, width - GUTTER - 2
    frame = _frame([point for points in finite for point in points])
    values = ticks(frame[2], frame[3], max(2, rows // 3))
    labels = {
        _row(frame, rows, value): label
        for value, label in zip(values, tick_labels(values), strict=True)
    }
    cells = _cells(lines, finite, frame, room, rows)
    drawn = []
    for row in range(rows):
        tick = "┤" if row in labels else "│"
        line = Text(f"{labels.get(row, '')[:GUTTER]:>{GUTTER}} ", "dim")
        drawn.append(line.append(tick, "bright_black").append_text(_line(cells[row])))
    marks = [step for step in restarts if frame[0] <= step <= frame[1]]
    return (*drawn, *_axis(frame, room, axis_rows, marks))


def _frame(points: Sequence[tuple[float, float]]) -> Frame:
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    return left, max(right, left + 1), *robust_range([y for _, y in points])


def _row(frame: Frame, rows: int, value: float) -> int:
    """Return the row from the top whose dots hold `value`."""
    dots = 4 * rows - 1
    return (dots - round(dots * (value - frame[2]) / (frame[3] - frame[2]))) // 4


def _cells(
    lines: Sequence[ChartLine],
    finite: Sequence[Sequence[tuple[float, float]]],
    frame: Frame,
    width: int,
    height: int,
) -> list[list[tuple[str, str]]]:
    """Return (character, style) of every cell; later lines are on top, dots are joined."""
    cells = [[(" ", "")] * width for _ in range(height)]
    for line, points in zip(lines, finite, strict=True):
        inside = [(x, min(max(y, frame[2]), frame[3])) for x, y in points]
        for row, text in enumerate(line_chart(inside, width, height, frame)):
            for column, char in enumerate(text):
                if char == " " or (line.dashed and column % 4 >= 2):
                    continue
                old = cells[row][column][0]
                joined = chr(ord(char) | ord(old)) if old != " " else char
                cells[row][column] = joined, line.style
    return cells


def _line(cells: Sequence[tuple[str, str]]) -> Text:
    """Return a row of cells as text, neighbours of one style as one piece."""
    text, run, style = Text(), "", ""
    for char, of in cells:
        if of != style and char != " ":
            text.append(run, style or None)
            run, style = "", of
        run += char
    return text.append(run, style or None)


def _axis(frame: Frame, width: int, rows: int, restarts: Sequence[float]) -> list[Text]:
    """Return the x axis with its ticks and restarts, if there are two rows, and its numbers."""
    label = " agent steps"
    values = ticks(frame[0], frame[1], max(2, (width - len(label)) // 12))
    rule, numbers = ["─"] * width, [" "] * (width + GUTTER + 2)
    for value, text in zip(values, tick_labels(values), strict=True):
        column = _column(frame, width, value)
        rule[column] = "┬"
        first = max(0, column + GUTTER + 2 - len(text) // 2)
        if first + len(text) <= len(numbers) - len(label):
            numbers[first : first + len(text)] = text
    numbers[-len(label) :] = label
    head = "restarts" if restarts else ""
    axis = Text(f"{head:>{GUTTER + 1}}", "yellow").append("└" + "".join(rule), "bright_black")
    for step in restarts:
        at = GUTTER + 2 + _column(frame, width, step)
        axis = Text.assemble(axis[:at], ("▲", "yellow"), axis[at + 1 :])
    return [axis, Text("".join(numbers), "dim")][-rows:]


def _column(frame: Frame, width: int, step: float) -> int:
    return round((width - 1) * (step - frame[0]) / (frame[1] - frame[0]))
