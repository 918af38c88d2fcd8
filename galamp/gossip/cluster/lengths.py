"""Lengths of updates for the certificate: measured in float32, and never told too short.

Pure, without torch.
"""

from __future__ import annotations

import math

import numpy as np

from galamp.gossip.cluster.wire import Vector

CHUNK = 2**15
"""Numbers that are measured at once: they fit in a processor's cache."""
LENGTH_SLACK = 1.0 + 1e-5
"""Factor that rounds measured lengths up, by more than their error.

With u = 2^-24, each rounding of float32 errs by u of its result at most, if that is no smaller than
the normal numbers. A square d^2 of d = a - b has three of them, as that of d counts twice. numpy
adds what is contiguous in pairs of blocks of up to 128 numbers: a number of a chunk passes 15
additions in one of 8 sums of its block, 3 where these are joined, up to 7 for what is left over,
and one each time that blocks are joined, up to 10. The terms have one sign, so the sum errs by
40 u < 3e-6 of itself at most, its root by half of that; float64, in which chunks are added, by
nothing beside it. Smaller results are off by 2^-126 at most, even where a processor takes them for
zero: of 2^31 numbers that is 2^-25 of `LEAST_SQUARE`.
"""
LEAST_SQUARE = 2.0**-70
"""Smaller sums of squares are not believed."""


def distance_at_most(one: Vector, other: Vector, scratch: Vector) -> float:
    """Return the L2 distance of two vectors, [size] float32 each, rounded up.

    It is finite only if all numbers of both are. `scratch` is overwritten, [`CHUNK`] float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # which the square then tells
        square = _square(one, other, scratch)
        if not LEAST_SQUARE < square < math.inf:
            square = _exact_square(one, other)
    return math.sqrt(square) * LENGTH_SLACK


def _square(one: Vector, other: Vector, scratch: Vector) -> float:
    square = 0.0
    for at in range(0, one.size, CHUNK):
        part = scratch[: one.size - at]
        np.subtract(one[at : at + CHUNK], other[at : at + CHUNK], out=part)
        square += float(np.multiply(part, part, out=part).sum())
    return square


def _exact_square(one: Vector, other: Vector) -> float:
    """Return the square in float64, in which neither it nor a difference can be out of range."""
    square = 0.0
    for at in range(0, one.size, CHUNK):
        part = one[at : at + CHUNK].astype(np.float64) - other[at : at + CHUNK]
        square += float(part @ part)
    return square
