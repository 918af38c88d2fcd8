"""Frames as text: two pixels per cell, the upper one as ink of `▀`, the lower one as its paper.

    frame, RGB [H, W, 3] --fitted--> [2 rows, columns, 3] --lines--> one string per row

Pure; in 24-bit colours, or in the 256 of xterm.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from galamp.environments.screens import Frame

BLOCK, RESET = "▀", "\x1b[0m"
CUBE = (0, 95, 135, 175, 215, 255)
"""Levels of xterm's colour cube; colours 16 to 231."""
FAINT = 0.6
FIRST_GREY, GREYS = 232, 24
"""xterm's greys: 8, 18, ..., 238."""


def fitted(frame: Frame, columns: int, rows: int) -> Frame:
    """Return the frame at the largest size that fits into so many cells; height is even.

    Where it shrinks, the mean of what falls into one pixel would hide a ball of few pixels: each is
    at least `FAINT` of the brightest of them.
    """
    height, width = frame.shape[:2]
    factor = min(columns / width, 2 * rows / height)
    size = max(1, round(width * factor)), max(2, round(height * factor / 2) * 2)
    if factor >= 1:
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    mean = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    side = math.ceil(1 / factor)
    brightest = cv2.dilate(frame, np.ones((side, side), np.uint8))
    most = cv2.resize(brightest, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(np.maximum(mean, FAINT * most), np.uint8)


def lines(picture: Frame, *, true_colour: bool) -> list[str]:
    """Return a string per two rows of pixels of [2 R, C, 3], each ends with normal colours."""
    codes = _true(picture) if true_colour else _indexed(picture)
    return [_line(codes[row], codes[row + 1]) for row in range(0, len(codes), 2)]


def _line(upper: list[str], lower: list[str]) -> str:
    """Return one row of cells; colours are set where they change."""
    parts, before = [], ("", "")
    for ink, paper in zip(upper, lower, strict=True):
        changed = []
        if ink != before[0]:
            changed.append(f"38;{ink}")
        if paper != before[1]:
            changed.append(f"48;{paper}")
        before = ink, paper
        parts.append((f"\x1b[{';'.join(changed)}m" if changed else "") + BLOCK)
    return "".join(parts) + RESET


def _true(picture: Frame) -> list[list[str]]:
    return [[f"2;{r};{g};{b}" for r, g, b in row] for row in picture.tolist()]


def _indexed(picture: Frame) -> list[list[str]]:
    return [[f"5;{number}" for number in row] for row in nearest(picture).tolist()]


def nearest(picture: Frame) -> NDArray[np.int64]:
    """Return the nearest of xterm's 240 fixed colours for each pixel of [H, W, 3], as [H, W]."""
    pixels = picture.astype(np.int64)
    levels = np.array(CUBE)
    at = np.abs(pixels[..., np.newaxis] - levels).argmin(-1)
    cube = 16 + at @ np.array([36, 6, 1])
    grey = np.clip((pixels.mean(-1) - 3) // 10, 0, GREYS - 1).astype(np.int64)
    greys = (8 + 10 * grey)[..., np.newaxis]
    off_cube = np.square(pixels - levels[at]).sum(-1)
    off_grey = np.square(pixels - greys).sum(-1)
    found: NDArray[np.int64] = np.where(off_grey < off_cube, FIRST_GREY + grey, cube)
    return found
