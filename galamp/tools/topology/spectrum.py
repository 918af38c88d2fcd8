"""Spectrum of a graph: its contraction factor beta, its spectral gap, and rounds to consensus.

    Rounds --contraction_of--> Contraction (norm of the disagreement that is left after rounds)
    Contraction --study--> Spectrum (beta, rate, rounds to 1 %)

Pure numpy. Three methods for the same numbers: every mode by itself where all rounds are circulant,
dense matrices for few learners, Lanczos on products with vectors otherwise. J is the matrix of all
1/n throughout; (I - J) x is the disagreement of x.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from galamp.tools.topology.krylov import (
    MAX_STEPS,
    Found,
    centred,
    largest_eigenvalue,
    largest_singular_value,
)
from galamp.tools.topology.mixing_matrices import Rounds

MAX_DENSE = 512
MAX_DENSE_SAMPLED = 128
LEFT = 0.01
"""Consensus is defined as this share of the worst disagreement being left."""
EXACT = 1e-10
"""Values below this are rounding errors of zero; Lanczos returns zero itself."""
MAX_ROUNDS = 1 << 48
MAX_SPARSE_ROUNDS = 512
FEW_ROUNDS = 16
PROBE_STEPS = 40
DIRECTIONS = 64


class Contraction(ABC):
    """Norm of the disagreement that `count` rounds from round `start` leave at worst: a 2-norm."""

    most_rounds = MAX_ROUNDS

    def __init__(self, rounds: Rounds) -> None:
        self.rounds, self.size = rounds, rounds.size
        self.sure = True  # whether every norm so far was found to rounding

    @abstractmethod
    def after(self, count: int, start: int = 0) -> Found:
        """Return the norm of (I - J) P_{start + count - 1} ... P_start (I - J)."""

    def eigenvalue(self) -> Found:
        """Return the second largest modulus of the eigenvalues of the period's product."""
        return largest_eigenvalue(lambda vector: self._forward(vector, self.rounds.most), self.size)

    def _forward(
        self, vector: NDArray[np.float64], count: int, start: int = 0
    ) -> NDArray[np.float64]:
        for round_ in range(start, start + count):
            vector = np.asarray(self.rounds[round_].apply(vector), dtype=np.float64)
        return vector


class ByModes(Contraction):
    """Circulant rounds share their eigenvectors, the Fourier modes: the moduli multiply."""

    @cached_property
    def moduli(self) -> NDArray[np.float64]:
        """|lambda| of every mode but the mean's, [period, n - 1]."""
        period = self.rounds.period or 1
        return np.abs([self.rounds[round_].eigenvalues[1:] for round_ in range(period)])

    def after(self, count: int, start: int = 0) -> Found:
        """Return the largest product of moduli."""
        period = len(self.moduli)
        whole, rest = divmod(count, period)
        at = (start + np.arange(rest)) % period
        left = self.moduli.prod(axis=0) ** whole * self.moduli[at].prod(axis=0)
        return Found(float(left.max()), True)


class Dense(Contraction):
    """The matrices themselves, [n, n]; powers of a period's product by squaring."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(rounds)
        self.product = lru_cache(maxsize=64)(self._product)

    def after(self, count: int, start: int = 0) -> Found:
        """Return the largest singular value of the product."""
        matrix = self.product(count, start)
        return Found(float(np.linalg.svd(matrix, compute_uv=False)[0]), True)

    def eigenvalue(self) -> Found:
        """Return it from all eigenvalues."""
        values = np.linalg.eigvals(self.product(self.rounds.most, 0))
        return Found(float(np.abs(values).max()), True)

    def _product(self, count: int, start: int) -> NDArray[np.float64]:
        period = self.rounds.period
        if period is None or count <= period:
            return centred(self._forward(centred(np.eye(self.size)), count, start))
        whole, rest = divmod(count, period)
        if whole > 1 and not rest:
            half = self.product(whole // 2 * period, start)
            square = half @ half
            return square @ self.product(period, start) if whole % 2 else square
        return self.product(rest, start) @ self.product(whole * period, start)


class Sparse(Contraction):
    """Products with vectors only, and Lanczos."""

    most_rounds = MAX_SPARSE_ROUNDS

    def after(self, count: int, start: int = 0) -> Found:
        """Return the largest singular value of the product, or a lower bound of it."""

        def backward(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            for round_ in reversed(range(start, start + count)):
                vector = np.asarray(self.rounds[round_].apply_transposed(vector))
            return vector

        found = largest_singular_value(
            lambda vector: self._forward(vector, count, start),
            backward,
            self.size,
            MAX_STEPS if count <= FEW_ROUNDS else PROBE_STEPS,
        )
        self.sure = self.sure and found.converged
        return found


def contraction_of(rounds: Rounds) -> Contraction:
    """Return the cheapest exact method for this graph."""
    if rounds.circulant:
        return ByModes(rounds)
    few = MAX_DENSE if rounds.period else MAX_DENSE_SAMPLED
    return Dense(rounds) if rounds.size <= few else Sparse(rounds)


@dataclass(frozen=True)
class Spectrum:
    """Speed at which disagreement shrinks, in lock-step.

    Attributes:
        beta: norm of the disagreement left after one period: for a graph that never changes and is
            doubly stochastic, the second largest singular value of P. None where there is no
            period.
        converged: whether beta (or the rate of a graph that is not doubly stochastic) is exact to
            rounding; otherwise it is a lower bound.
        rate: factor per round: beta ** (1 / period), which no later period exceeds, or the second
            largest eigenvalue of the period's product where the mean is not kept, or as measured.
        measured_rounds: rounds over which the rate was measured; 0 where it was not.
        consensus: rounds after which at most 1 % of any disagreement is left; None for never.
        consensus_exact: whether that number is exact, or follows from the rate.
        exactly_after: rounds after which no disagreement is left; None for never.
    """

    beta: float | None
    converged: bool
    rate: float
    measured_rounds: int
    consensus: int | None
    consensus_exact: bool
    exactly_after: int | None

    @property
    def gap(self) -> float:
        """The spectral gap, per round."""
        return 1.0 - self.rate


def study(rounds: Rounds, contraction: Contraction | None = None) -> Spectrum:
    """Return how fast the graph reaches consensus."""
    contraction = contraction or contraction_of(rounds)
    if rounds.period is None:
        return _measured(rounds, contraction)
    period = rounds.period
    beta = contraction.after(period)
    found, rate = beta, beta.value ** (1 / period)
    if not rounds.topology.doubly_stochastic:
        found = contraction.eigenvalue()
        rate = found.value ** (1 / period)
    exactly, left = None, beta.value
    if left < EXACT:
        left, rate, exactly = 0.0, 0.0, _first(contraction, EXACT, period)
    consensus, exact = _consensus(rounds, contraction, rate, found.converged)
    searched = consensus is not None and consensus <= contraction.most_rounds
    # Rounds may take longer than a period to average exactly, but then do so all at once.
    if exactly is None and searched and contraction.after(consensus or 1).value < EXACT:
        exactly = _first(contraction, EXACT, consensus or 1)
    return Spectrum(left, found.converged, rate, 0, consensus, exact, exactly)


def _consensus(
    rounds: Rounds, contraction: Contraction, rate: float, converged: bool
) -> tuple[int | None, bool]:
    """Return rounds to 1 %, and whether that is exact."""
    if rate >= 1.0 - 1e-13:
        return None, True
    by_rate = 1 if rate <= LEFT else math.ceil(math.log(LEFT) / math.log(rate) - 1e-9)
    if rounds.period == 1 and rounds.topology.doubly_stochastic and rounds[0].is_normal:
        return by_rate, converged
    if by_rate > contraction.most_rounds // 2:
        return by_rate, False
    first = _first(contraction, LEFT, contraction.most_rounds)
    # Where the mean is not kept, disagreement may grow temporarily: the first time is not the last.
    return first, contraction.sure and rounds.topology.doubly_stochastic


def _first(contraction: Contraction, least: float, most: int) -> int | None:
    """Return the least count of rounds that leaves at most `least`; None if `most` leave more."""
    high = 1
    while contraction.after(high).value > least:
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if contraction.after(middle).value > least:
            low = middle
        else:
            high = middle
    return high


def _measured(rounds: Rounds, contraction: Contraction) -> Spectrum:
    """Measure the factor per round on random disagreements, the first quarter left out."""
    most = rounds.most
    draws = np.random.default_rng(0).standard_normal((rounds.size, DIRECTIONS))
    state = centred(draws)
    logs: list[float] = []
    for round_ in range(most):
        before = float(np.linalg.norm(state))
        state = centred(rounds[round_].apply(state))
        after = float(np.linalg.norm(state))
        if after < EXACT * before:
            exactly = round_ + 1
            first = _first(contraction, LEFT, exactly)
            return Spectrum(None, True, 0.0, exactly, first, True, exactly)
        logs.append(math.log(after / before))
        state /= after
    rate = math.exp(float(np.mean(logs[most // 4 :])))
    first = None if rate >= 1.0 else _first(contraction, LEFT, min(most, contraction.most_rounds))
    exact = first is not None and contraction.sure
    if first is None and rate < 1.0:
        first = math.ceil(math.log(LEFT) / math.log(rate))
    return Spectrum(None, False, rate, most, first, exact, None)
