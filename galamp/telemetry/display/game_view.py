"""Game view: the newest observation of one environment, in half-blocks. Pure.

    Snapshot.game --game_view--> lines of coloured text

A character cell shows two pixels, one above the other, in 24 greys. The picture is what the policy
sees: grey, and as small as the preprocessing makes it. It is read without a lock from memory that
is being written, so a frame may be torn. Observations that are no pictures are shown as numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from galamp.telemetry.display.panels import titled
from galamp.telemetry.display.text import clip, score
from galamp.telemetry.snapshot import GameFrame, Snapshot

GREYS = tuple(f"color({232 + level})" for level in range(24))
"""The grey ramp of 256-colour terminals, from dark to light."""
BLOCKS = " ▄▀█"
"""Without colours: neither, lower, upper, both pixels lighter than the mean."""


def game_view(snapshot: Snapshot, width: int, height: int, colour: bool) -> list[Text]:
    """Draw the frame as large as it fits; wait for the first one with a word."""
    game = snapshot.game
    if game is None:
        return [*titled("game", width), Text("waiting for a frame", "dim")]
    one = next((each for each in snapshot.learners if each.rank == game.learner), None)
    mean = "" if one is None else f", mean score {score(one.mean_return)}"
    name = f"what learner {game.learner} sees in environment {game.env_index}{mean}"
    lines = titled(clip(name, width - 2), width)
    if game.width and game.height:
        return lines + picture(game, width, height - 1, colour)
    return lines + _values(game, width, height - 1)


def picture(game: GameFrame, width: int, height: int, colour: bool) -> list[Text]:
    """Return the picture on at most `height` lines, in its proportions."""
    data = bytes.fromhex(game.pixels)
    if len(data) != game.width * game.height or height < 1:
        return [Text("no whole frame", "dim")]
    pixels = np.frombuffer(data, np.uint8).reshape(game.height, game.width)
    scale = min(width / game.width, 2 * height / game.height, 1.0)
    rows = max(2, int(game.height * scale) // 2 * 2)
    small = _resized(pixels, rows, max(1, int(game.width * scale)))
    indent = " " * ((width - small.shape[1]) // 2)
    draw = _greys if colour else _blocks
    return [Text(indent).append_text(line) for line in draw(small)]


def _resized(pixels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float64]:
    """Return the picture in another size; a smaller one has the means of its areas."""
    sums = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1))
    sums[1:, 1:] = pixels.cumsum(0, dtype=np.float64).cumsum(1)
    y = np.arange(rows + 1) * pixels.shape[0] // rows
    x = np.arange(columns + 1) * pixels.shape[1] // columns
    area = np.maximum(1, np.diff(y)[:, None] * np.diff(x)[None, :])
    corners = sums[np.ix_(y, x)]
    inside = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return np.asarray(inside / area, np.float64)


def _greys(pixels: NDArray[np.float64]) -> list[Text]:
    levels = np.clip(pixels * len(GREYS) // 256, 0, len(GREYS) - 1).astype(int).tolist()
    lines = []
    for upper, lower in zip(levels[::2], levels[1::2], strict=True):
        line, pairs = Text(), list(zip(upper, lower, strict=True))
        start = 0
        for at in range(1, len(pairs) + 1):
            if at == len(pairs) or pairs[at] != pairs[start]:
                top, bottom = (GREYS[level] for level in pairs[start])
                line.append("▀" * (at - start), f"{top} on {bottom}")
                start = at
        lines.append(line)
    return lines


def _blocks(pixels: NDArray[np.float64]) -> list[Text]:
    light = (pixels > pixels.mean()).astype(int)
    cells = (2 * light[::2] + light[1::2]).tolist()
    return [Text("".join(BLOCKS[cell] for cell in row)) for row in cells]


def _values(game: GameFrame, width: int, rows: int) -> list[Text]:
    lines = [Text(clip("no picture: the observations are numbers", width), "dim")]
    most = max((abs(value) for value in game.values), default=0.0) or 1.0
    bar = max(4, width - 20)
    for at, value in enumerate(game.values[: max(0, rows - 1)]):
        line = Text(f"{at:>4} {value:>12.4g} ", "dim")
        share = min(1.0, abs(value) / most) if value - value == 0 else 0.0
        lines.append(line.append("█" * round(bar * share), "cyan" if value >= 0 else "yellow"))
    return lines
