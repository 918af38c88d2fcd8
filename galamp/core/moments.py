"""Moments of a stream of vectors: count, mean and sum of squared deviations, which can be merged.

    values [K, N] --of--> Moments --merged with others--> the moments of all: mean, variance

Numpy only; runs in learners and wherever checkpoints are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of so many vectors [N].

    Attributes:
        count: number of vectors.
        mean: [N] float64; 0 where there are none.
        m2: [N] float64, sum of squared deviations from the mean.
    """

    count: float
    mean: Floats
    m2: Floats

    @classmethod
    def none(cls, size: int) -> Moments:
        """Return the moments of no vectors [size]."""
        return cls(0.0, np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, values: npt.NDArray[np.generic]) -> Moments:
        """Return the moments of `values` [K, N], of any type of numbers."""
        if not len(values):
            return cls.none(values.shape[1])
        exact = values.astype(np.float64)
        mean = exact.mean(0)
        return cls(float(len(exact)), mean, np.square(exact - mean).sum(0))

    @classmethod
    def unpacked(cls, packed: Floats) -> Moments:
        """Return what `packed` [1 + 2N] has made of it."""
        size = len(packed) // 2
        return cls(float(packed[0]), packed[1 : 1 + size].copy(), packed[1 + size :].copy())

    def packed(self) -> Floats:
        """Return count, mean and m2 as one vector [1 + 2N]."""
        return np.concatenate(([self.count], self.mean, self.m2))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both (Chan, Golub and LeVeque 1983)."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count)
        return Moments(count, mean, m2)

    @property
    def variance(self) -> Floats:
        """Population variance [N], as `numpy.var`; 0 where there are no vectors."""
        return self.m2 / max(self.count, 1.0)
