"""A graph as terminal text: learners on a circle, or a receiver-sender matrix of dots.

Pure functions: rounds go in, lines come out; no colour, no clock.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from galamp.telemetry.display.braille import braille
from galamp.tools.topology.mixing_matrices import Rounds, Whole

MAX_ON_A_CIRCLE = 32
MAX_DOTS = 120
"""Dots on a side of the matrix: 60 columns of text."""


def hears(rounds: Rounds, dots: int) -> NDArray[np.bool_]:
    """Return [receiver, sender]: whether one receives from the other in any of the shown rounds.

    More than `dots` learners are grouped, so many per row and column that they fit.
    """
    together = -(-rounds.size // dots)
    side = -(-rounds.size // together)
    seen = np.zeros((side, side), dtype=bool)
    for mixing in rounds.union():
        if mixing.complete:
            return _complete(side, together)
        receivers, senders, _ = mixing.edges
        seen[receivers // together, senders // together] = True
    return seen


def _complete(side: int, together: int) -> NDArray[np.bool_]:
    full = np.ones((side, side), dtype=bool)
    return full & ~np.eye(side, dtype=bool) if together == 1 else full


def picture(rounds: Rounds) -> list[str]:
    """Draw the graph: a circle for few learners, the matrix for many."""
    return circle(rounds) if rounds.size <= MAX_ON_A_CIRCLE else matrix(rounds)


def matrix(rounds: Rounds) -> list[str]:
    """Draw the matrix: a row per receiver, a column per sender."""
    seen = hears(rounds, MAX_DOTS)
    together, last = -(-rounds.size // MAX_DOTS), str(rounds.size - 1)
    rows = braille(seen)
    width, margin = len(rows[0]), max(len(last), 5)
    head = "0" + "sends".center(width - 1 - len(last)) + last
    names = ["0", *[""] * (len(rows) - 2), last]
    names[len(rows) // 2] = "hears"
    lines = [f"{'':{margin}}  {head}", f"{'':{margin}} ┌{'─' * width}┐"]
    lines += [f"{name:>{margin}} │{row}│" for name, row in zip(names, rows, strict=True)]
    lines.append(f"{'':{margin}} └{'─' * width}┘")
    if together > 1:
        lines.append(f"{'':{margin}}  one dot: {together} x {together} learners")
    return lines


def circle(rounds: Rounds) -> list[str]:
    """Draw learners 0, 1, ... clockwise from the top, with a line for each edge."""
    size = rounds.size
    height = 11 + 2 * min(size, 6) // 2 if size <= 8 else min(13 + size // 2, 27)
    height += 1 - height % 2
    width = 2 * height
    positions = _positions(size, width, height)
    dots = np.zeros((4 * height, 2 * width), dtype=bool)
    seen = hears(rounds, size)
    for receiver, sender in np.argwhere(seen | seen.T):
        if receiver < sender:
            _line(dots, _dot(positions[receiver]), _dot(positions[sender]))
    canvas = [list(line) for line in braille(dots)]
    for rank, (x, y) in enumerate(positions):
        _write(canvas, x, y, str(rank))
    lines = ["".join(line).rstrip() for line in canvas]
    return lines[: max(at for at, line in enumerate(lines) if line) + 1]


def _positions(size: int, width: int, height: int) -> list[tuple[int, int]]:
    """Return the column and row of every learner's number."""
    found = []
    for rank in range(size):
        angle = 2 * math.pi * rank / size
        x = (width - 3) / 2 + (width - 6) / 2 * math.sin(angle)
        y = (height - 1) / 2 - (height - 1) / 2 * math.cos(angle)
        found.append((round(x), round(y)))
    return found


def _dot(position: tuple[int, int]) -> tuple[float, float]:
    """Return the dot in the middle of a character."""
    return 2 * position[0] + 1.0, 4 * position[1] + 1.5


def _line(dots: NDArray[np.bool_], start: tuple[float, float], end: tuple[float, float]) -> None:
    """Set the dots from `start` to `end`."""
    across, down = end[0] - start[0], end[1] - start[1]
    steps = np.linspace(0.0, 1.0, int(max(abs(across), abs(down))) + 1)
    columns: Whole = np.floor(start[0] + steps * across + 0.5).astype(np.int64)
    rows: Whole = np.floor(start[1] + steps * down + 0.5).astype(np.int64)
    dots[np.clip(rows, 0, len(dots) - 1), np.clip(columns, 0, dots.shape[1] - 1)] = True


def _write(canvas: list[list[str]], x: int, y: int, name: str) -> None:
    """Write a number with a blank on either side, so that no line touches it."""
    left = x - (len(name) - 1) // 2
    for at, char in enumerate(f" {name} ", start=left - 1):
        if 0 <= at < len(canvas[y]):
            canvas[y][at] = char
