"""A chart as coloured text, in braille, at the terminal's width.

    Chart --render--> lines of rich text, at most `width` cells wide

Pure. Lines can be told apart without colours, too: each bears the key that its legend has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.text import Text

from galamp.telemetry.display.text import Frame, clip, line_chart
from galamp.telemetry.display.ticks import tick_labels, ticks
from galamp.tools.plot.charts import Chart, Line, Numbers
from galamp.tools.plot.scale import beyond, frame

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
KEYS = "123456789abcdefghijklmnopqrstuvwxyz"
MAX_LEGEND = 12
MARKS = {"resume": "▲", "restart": "x"}
MARK_NOTES = {"resume": "▲ the run was started again", "restart": "x a process was restarted"}
DOT, DOT_NOTE = "●", "● evaluation: mean score of whole games"
MIN_WIDTH, MIN_HEIGHT = 30, 4


@dataclass
class _Canvas:
    """Cells of the plot area, [row][column] -> (character, style)."""

    width: int
    height: int

    def __post_init__(self) -> None:
        self.cells = [[(" ", "")] * self.width for _ in range(self.height)]

    def put(self, column: int, row: int, char: str, style: str) -> None:
        """Set a cell; braille dots are added to those that are there."""
        if not (0 <= column < self.width and 0 <= row < self.height):
            return
        old = self.cells[row][column][0]
        if "\u2800" < char <= "\u28ff" and "\u2800" < old <= "\u28ff":
            char = chr(ord(char) | ord(old))
        self.cells[row][column] = char, style

    def text(self, row: int) -> Text:
        """Return a row."""
        line = Text()
        for char, style in self.cells[row]:
            line.append(char, style)
        return line


def render(chart: Chart, width: int, height: int) -> list[Text]:
    """Return a chart whose plot area has `height` rows; heading, axis, legend and notes besides."""
    head = [Text(clip(chart.title, width), "bold")]
    if not chart.lines or width < MIN_WIDTH:
        return head + [Text(clip(note, width), "dim") for note in chart.notes]
    edges = frame(chart)
    values = ticks(edges[2], edges[3], max(2, height // 3))
    labels = tick_labels(values)
    gutter = max(map(len, labels))
    canvas = _Canvas(width - gutter - 2, max(MIN_HEIGHT, height))
    _draw(canvas, chart, edges)
    at = {_row(canvas, edges, value): label for value, label in zip(values, labels, strict=True)}
    lines = []
    for row in range(canvas.height):
        tick = "┤" if row in at else "│"
        line = Text(f"{at.get(row, ''):>{gutter}} ", "dim").append(tick, "bright_black")
        lines.append(line.append_text(canvas.text(row)))
    lines += _axis(canvas, chart, edges, gutter)
    return [*head, *lines, *_legend(chart, width), *_notes(chart, edges, width)]


def _draw(canvas: _Canvas, chart: Chart, edges: Frame) -> None:
    """Draw references, bands, thin lines, lines, and on top evaluations and the lines' keys."""
    for name, value in chart.references.items():
        if edges[2] <= value <= edges[3]:
            row, label = _row(canvas, edges, value), f" {name} {value:g}"
            for column, char in enumerate(label.rjust(canvas.width, "┄")):
                canvas.put(column, row, char, "dim")
    for line in sorted(chart.lines, key=lambda line: not line.thin):
        style = COLOURS[line.colour % len(COLOURS)]
        for edge in (line.low, line.high) if len(line.low) else ():
            _braille(canvas, line.x, edge, edges, f"{style} dim")
        _braille(canvas, line.x, line.y, edges, f"{style} dim" if line.thin else style)
    for line in chart.lines:
        for x, y in line.dots:
            if edges[2] <= y <= edges[3]:
                style = f"bold {COLOURS[line.colour % len(COLOURS)]}"
                canvas.put(_column(canvas, edges, x), _row(canvas, edges, y), DOT, style)
    if len(chart.lines) > 1:
        for key, line in zip(KEYS, chart.lines, strict=False):
            style = f"bold {COLOURS[line.colour % len(COLOURS)]}"
            for point in (len(line.x) // 2, -1):
                column = _column(canvas, edges, float(line.x[point]))
                row = _row(canvas, edges, float(np.clip(line.y[point], *edges[2:])))
                canvas.put(column, row, key, style)


def _braille(canvas: _Canvas, x: Numbers, y: Numbers, edges: Frame, style: str) -> None:
    """Draw a line: of the points that share a column of dots, their mean."""
    columns = 2 * canvas.width - 1
    at = np.rint(columns * (x - edges[0]) / (edges[1] - edges[0])).astype(int)
    _, index = np.unique(at, return_inverse=True)
    count = np.bincount(index)
    means = np.bincount(index, y) / count, np.bincount(index, x) / count
    heights, places = np.clip(means[0], *edges[2:]), means[1]
    points = list(zip(places.tolist(), heights.tolist(), strict=True))
    for row, text in enumerate(line_chart(points, canvas.width, canvas.height, edges)):
        for column, char in enumerate(text):
            if char != " ":
                canvas.put(column, row, char, style)


def _axis(canvas: _Canvas, chart: Chart, edges: Frame, gutter: int) -> list[Text]:
    """Return the x axis with ticks and marks, and the line of its numbers."""
    room = canvas.width
    values = ticks(edges[0], edges[1], max(2, (room - len(chart.x_label)) // 12))
    labels = tick_labels(values)
    rule, numbers = ["─"] * room, [" "] * (room + gutter + 2)
    for value, label in zip(values, labels, strict=True):
        column = _column(canvas, edges, value)
        rule[column] = "┬"
        first = max(0, min(column + gutter + 2 - len(label) // 2, len(numbers) - len(label)))
        numbers[first : first + len(label)] = label
    axis = Text(" " * (gutter + 1)).append("└", "bright_black")
    styles = ["bright_black"] * room
    for line in chart.lines:
        for mark in line.marks:
            column = _column(canvas, edges, mark.x)
            if 0 <= column < room:
                rule[column], styles[column] = MARKS[mark.kind], COLOURS[line.colour % len(COLOURS)]
    for char, style in zip(rule, styles, strict=True):
        axis.append(char, style)
    below = "".join(numbers).rstrip()
    wide = len(below) + 2 + len(chart.x_label) <= len(numbers)
    if wide:
        return [axis, Text(below.ljust(len(numbers) - len(chart.x_label)) + chart.x_label, "dim")]
    return [axis, Text(below, "dim"), Text(chart.x_label.rjust(len(numbers)), "dim")]


def _legend(chart: Chart, width: int) -> list[Text]:
    """Return a line per line of the chart, if there are several."""
    if len(chart.lines) < 2:
        return []
    shown = [
        Text(f"{key} ", f"bold {COLOURS[line.colour % len(COLOURS)]}").append(
            clip(_described(line), width - 2), "default"
        )
        for key, line in zip(KEYS[:MAX_LEGEND], chart.lines, strict=False)
    ]
    more = len(chart.lines) - len(shown)
    return [*shown, *([Text(f"… and {more} more", "dim")] if more else [])]


def _described(line: Line) -> str:
    """Return a line's label and newest value."""
    return f"{line.label}   now {line.y[-1]:.4g}"


def _notes(chart: Chart, edges: Frame, width: int) -> list[Text]:
    kinds = {mark.kind for line in chart.lines for mark in line.marks}
    told = [note for kind, note in MARK_NOTES.items() if kind in kinds]
    told += [DOT_NOTE] if any(line.dots for line in chart.lines) else []
    texts = [*(["   ".join(told)] if told else []), *beyond(chart, edges), *chart.notes]
    return [Text(clip(text, width), "dim") for text in texts]


def _column(canvas: _Canvas, edges: Frame, x: float) -> int:
    return round((canvas.width - 1) * (x - edges[0]) / (edges[1] - edges[0]))


def _row(canvas: _Canvas, edges: Frame, y: float) -> int:
    """Return the row from the top; its dots hold `y`."""
    rows = 4 * canvas.height - 1
    return (rows - round(rows * (y - edges[2]) / (edges[3] - edges[2]))) // 4
