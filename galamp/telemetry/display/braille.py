"""Dots as braille characters, of four rows and two columns each. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bit of each dot in a braille character, as [row 0..3 from the top][column 0..1]."""


def braille(dots: NDArray[np.bool_]) -> list[str]:
    """Return `dots` [rows, columns] as lines of text; a character without dots is a blank."""
    rows, columns = dots.shape
    padded = np.pad(dots, ((0, -rows % 4), (0, -columns % 2)))
    cells = padded.reshape(padded.shape[0] // 4, 4, -1, 2)
    codes = np.einsum("rick,ik->rc", cells, _BITS)
    return ["".join(chr(0x2800 + code) if code else " " for code in row) for row in codes]
