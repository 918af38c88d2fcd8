"""Rounding of vectors for the wire to bfloat16, with error feedback.

    vector x + what was left out before, e --encode--> q, half the bytes;  e becomes x + e - q

So what one receiver gets adds up to what was meant for it, up to the last e: errors do not pile up
in one direction, as they would where each small update is rounded away [1, 2]. The receiver mixes
q, and is told how far q is from x. Where one vector is lost on the way, e is still right: q stands
for the whole of x, not for a change of it.

A number's error stays below 2^-6 of it, whatever was sent before: of e at most 2^-7 of x is added,
the rest is forgotten. This matters where a number has become far smaller since, as a mean of
squares in an optimiser's state: it would else be sent as a negative one, which has no root. Pure,
without torch.

[1] Seide et al., 1-bit stochastic gradient descent, Interspeech 2014.
[2] Tang et al., DeepSqueeze: decentralization meets error-compensated compression, 2019,
    https://arxiv.org/abs/1907.07346.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.cluster.wire import Halves, Vector, bit_sum_of_halves, widened

LENGTH_SLACK = 1.0 + 1e-5
"""Factor that rounds measured lengths up, by more than their error."""
MOST_LEFT_OUT = np.float32(2**-7)
"""Largest part of a number that is added to it of what was left out before: twice what one rounding
can leave out."""
CHUNK = 2**14
"""Numbers that are rounded at once: they fit in a processor's cache."""
LEAST = 2.0**-126
"""Distance where only an optimiser's state was rounded: 0 says that nothing was."""


class Rounded(NamedTuple):
    """A rounded vector as it goes over the wire, and its L2 distance to the exact, rounded up.

    The distance is that of the parameters in it; it is 0 only if the whole vector is exact.
    """

    halves: Halves
    distance: float

    @property
    def vector(self) -> Vector:
        """The vector as it is read."""
        return widened(self.halves)

    @property
    def checksum(self) -> int:
        """The `bit_sum` of the vector that is read."""
        return bit_sum_of_halves(self.halves)


class Rounding:
    """Rounds the vectors of one learner for one receiving node; it keeps what is left out."""

    def __init__(self, size: int, parameters: int | None = None) -> None:
        """Begin with nothing left out; takes 4 bytes per number, once it is used.

        The first `parameters` of `size` numbers (default: all) are those of the network.
        """
        self._parameters = size if parameters is None else parameters
        self._left_out = np.zeros(size, np.float32)
        # As long as a chunk each: what is allocated anew for each one is cleared by the kernel.
        self._most, self._wanted = np.empty((2, CHUNK), np.float32)
        self._error = np.empty(CHUNK, np.float64)

    def encode(self, vector: Vector, halves: Halves | None = None) -> Rounded:
        """Return the vector, and what was left out before, rounded; [size] float32.

        It is written to `halves`, if given. Numbers that are not finite stay so, and leave nothing
        out.
        """
        halves = np.empty(vector.size, np.uint16) if halves is None else halves
        square, exact = 0.0, True
        with np.errstate(invalid="ignore", over="ignore"):  # of infinities
            for at in range(0, vector.size, CHUNK):
                part = slice(at, at + CHUNK)
                squares = self._round(vector[part], halves[part], self._left_out[part])
                own = max(0, self._parameters - at)
                square += float(squares[:own].sum())
                exact = exact and not squares[own:].any()
        distance = math.sqrt(square) * LENGTH_SLACK
        return Rounded(halves, distance if exact else max(distance, LEAST))

    def _round(self, vector: Vector, halves: Halves, kept: Vector) -> npt.NDArray[np.float64]:
        """Round a part into `halves`, and what is `kept` of it; returns the squares of its errors.

        They are valid until the next call.
        """
        size = vector.size
        most, wanted, error = self._most[:size], self._wanted[:size], self._error[:size]
        np.multiply(np.abs(vector, out=most), MOST_LEFT_OUT, out=most)
        np.minimum(kept, most, out=kept)
        np.maximum(kept, np.negative(most, out=most), out=kept)
        np.add(vector, kept, out=wanted)
        halves[:] = halved(wanted)
        read = widened(halves)
        np.subtract(wanted, read, out=kept)
        if not np.isfinite(kept).all():
            np.nan_to_num(kept, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        np.subtract(vector, read, out=error, dtype=np.float64)
        squares: npt.NDArray[np.float64] = np.square(error, out=error)
        return squares


def halved(vector: Vector) -> Halves:
    """Return the nearest bfloat16 numbers, ties to even, as their bits; NaN stays NaN."""
    bits = vector.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= 16
    upper = rounded.astype(np.uint16)
    nan = np.isnan(vector)
    if nan.any():  # whose bits the sum could carry into another number
        upper[nan] = 0x7FC0
    return upper
