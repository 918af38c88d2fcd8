"""The averaging rounds of a graph as arrays: read once from a topology, applied many times.

    Topology --read_round--> Mixing (one matrix P_k) --Rounds--> a period, or as many as asked

Pure numpy; nothing here knows of processes or networks. A matrix is never stored densely unless
it is asked for: a round is its edges, or one row where every row is the same but for a shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from galamp.gossip.topologies.base import Topology

Floats = NDArray[np.floating]
Whole = NDArray[np.int64]

MAX_ROWS_READ = 400_000
"""Rows of mixing matrices that are read in a second or two; longer periods are sampled."""
MAX_ROUNDS_READ = 500
FEW_PEERS = 64
SAME = 1e-12


class Mixing:
    """One mixing matrix P [n, n]: its edges, or the row that all learners share but for a shift.

    Attributes:
        size: number of learners n.
        degrees: number of in-peers of every learner, [n].
        own: weight of every learner in its own average, [n].
        shape: (1, n) where learners are taken as a circle, (rows, columns) as a grid that wraps.
        kernel: [n], the weight of learner r - o in the average of learner r at index o, if that is
            the same for every r (subtracted row and column by themselves); None otherwise.
    """

    def __init__(
        self,
        own: Floats,
        degrees: Whole,
        edges: tuple[Whole, Whole, Floats] | None,
        kernel: Floats | None = None,
    ) -> None:
        self.size, self.own, self.degrees, self.kernel = len(own), own, degrees, kernel
        self.shape, self._edges = (1, self.size), edges
        for shape in ((1, self.size), _grid(self.size)):
            if self.kernel is None and edges is not None:
                self.shape, self.kernel = shape, _kernel(own, degrees, edges, shape)

    @property
    def complete(self) -> bool:
        """Whether every learner receives from every other one."""
        return bool((self.degrees == self.size - 1).all())

    @property
    def peer_weights(self) -> Floats:
        """All weights of peers that occur, [E] or fewer; empty if no learner has peers."""
        if self._edges is None:
            assert self.kernel is not None
            return self.kernel[1:]
        return self._edges[2]

    @cached_property
    def edges(self) -> tuple[Whole, Whole, Floats]:
        """Receivers, senders and weights, [E] each, by receiver."""
        if self._edges is not None:
            return self._edges
        assert self.kernel is not None
        offsets = np.arange(1, self.size)
        receivers = np.repeat(np.arange(self.size), len(offsets))
        senders = (receivers - np.tile(offsets, self.size)) % self.size
        return receivers, senders, np.tile(self.kernel[1:], self.size)

    @cached_property
    def eigenvalues(self) -> NDArray[np.complex128]:
        """All eigenvalues [n], that of the mean first, where there is a kernel."""
        assert self.kernel is not None
        return np.fft.fft2(self.kernel.reshape(self.shape)).ravel()

    def apply(self, values: Floats) -> Floats:
        """Return P X for X [n] or [n, m]."""
        own = self.own.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(own * values + self.from_peers(values))

    def apply_transposed(self, values: Floats) -> Floats:
        """Return the transpose of P times a vector [n]."""
        if self._by_fourier:
            return self._convolved(values, np.conj(self.eigenvalues))
        receivers, senders, weights = self.edges
        spread = np.bincount(senders, weights * values[receivers], minlength=self.size)
        return np.asarray(self.own * values + spread)

    def from_peers(self, values: Floats) -> Floats:
        """Return (P without its diagonal) X for X [n] or [n, m]."""
        if self._by_fourier:
            return self._convolved(values, self.eigenvalues - self.own[0])
        sums = np.zeros_like(values)
        for rows, peers, weights in self._groups(values.dtype):
            if values.ndim == 1:
                sums[rows] = (weights * values[peers]).sum(1)
            elif peers.shape[1] <= FEW_PEERS:
                part = weights[:, :1] * values[peers[:, 0]]
                for i in range(1, peers.shape[1]):
                    part += weights[:, i : i + 1] * values[peers[:, i]]
                sums[rows] = part
            else:
                for row, heard, weight in zip(rows, peers, weights, strict=True):
                    sums[row] = weight @ values[heard]
        return sums

    @property
    def _by_fourier(self) -> bool:
        return self.kernel is not None and self.shape[0] == 1 and int(self.degrees[0]) > FEW_PEERS

    def _convolved(self, values: Floats, factors: NDArray[np.complex128]) -> Floats:
        """Multiply every mode of `values` [n, ...] by its factor."""
        half = factors[: self.size // 2 + 1].reshape(-1, *[1] * (values.ndim - 1))
        waves = np.fft.rfft(values, axis=0) * half
        return np.fft.irfft(waves, self.size, axis=0).astype(values.dtype)

    def _groups(self, dtype: np.dtype[np.floating]) -> list[tuple[Whole, Whole, Floats]]:
        """Return rows [g], their peers [g, d] and weights [g, d] for every in-degree d."""
        return self._doubles if dtype == np.float64 else self._singles

    @cached_property
    def _doubles(self) -> list[tuple[Whole, Whole, Floats]]:
        _, senders, weights = self.edges
        starts = np.concatenate(([0], np.cumsum(self.degrees)[:-1]))
        found: list[tuple[Whole, Whole, Floats]] = []
        for degree in np.unique(self.degrees[self.degrees > 0]):
            rows = np.flatnonzero(self.degrees == degree)
            at = starts[rows, None] + np.arange(degree)
            found.append((rows, senders[at], weights[at]))
        return found

    @cached_property
    def _singles(self) -> list[tuple[Whole, Whole, Floats]]:
        return [(rows, peers, weights.astype(np.float32)) for rows, peers, weights in self._doubles]

    @cached_property
    def is_normal(self) -> bool:
        """Whether P commutes with its transpose for certain: it is symmetric, or circulant."""
        if self.kernel is not None:
            return True
        receivers, senders, weights = self.edges
        there = np.argsort(receivers * self.size + senders)
        back = np.argsort(senders * self.size + receivers)
        return bool(
            (receivers[there] == senders[back]).all()
            and (senders[there] == receivers[back]).all()
            and np.abs(weights[there] - weights[back]).max(initial=0.0) < SAME
        )


def _grid(size: int) -> tuple[int, int]:
    """Return rows and columns of the grid of `size` that is nearest to a square."""
    rows = next(rows for rows in range(math.isqrt(size), 0, -1) if size % rows == 0)
    return rows, size // rows


def _kernel(
    own: Floats, degrees: Whole, edges: tuple[Whole, Whole, Floats], shape: tuple[int, int]
) -> Floats | None:
    """Return the row that all learners share but for a shift, if they do."""
    size, degree = len(own), int(degrees[0])
    if (degrees != degree).any() or np.ptp(own) > SAME:
        return None
    receivers, senders, weights = edges
    rows, columns = shape
    down = (receivers // columns - senders // columns) % rows
    offsets = (down * columns + (receivers - senders) % columns).reshape(size, degree)
    order = np.argsort(offsets, axis=1)
    offsets = np.take_along_axis(offsets, order, axis=1)
    weights = np.take_along_axis(weights.reshape(size, degree), order, axis=1)
    if (offsets != offsets[0]).any() or np.ptp(weights, axis=0).max(initial=0.0) > SAME:
        return None
    kernel = np.zeros(size)
    kernel[0] = own[0]
    kernel[offsets[0]] = weights[0]
    return kernel


def read_round(topology: Topology, round_: int) -> Mixing:
    """Return the mixing matrix of round `round_`."""
    size = topology.size
    if _is_uniform(topology, round_):
        kernel = np.full(size, 1.0 / size)
        return Mixing(kernel.copy(), np.full(size, size - 1), None, kernel)
    rows = [topology.weights(rank, round_) for rank in range(size)]
    own = np.array([row[0] for row in rows])
    degrees = np.array([len(row) - 1 for row in rows], dtype=np.int64)
    # Row by row: a Python number for each of 16 million weights would not fit.
    peers = [np.array(topology.in_peers(rank, round_), dtype=np.int64) for rank in range(size)]
    weights = np.concatenate([np.array(row[1:], dtype=np.float64) for row in rows])
    edges = (np.repeat(np.arange(size), degrees), np.concatenate(peers), weights)
    return Mixing(own, degrees, edges)


def _is_uniform(topology: Topology, round_: int) -> bool:
    """Return whether P is the matrix of all 1/n: then a row names no other peers."""
    for rank in range(topology.size):
        row = topology.weights(rank, round_)
        if len(row) != topology.size or max(row) - min(row) > SAME:
            return False
    return True


class Rounds:
    """The rounds of a topology, each read at its first use.

    Attributes:
        topology: the topology.
        period: rounds after which they repeat; None for random graphs, and for periods too long
            to be read as a whole.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology, self.size = topology, topology.size
        period = topology.period()
        long = period is not None and period > 1 and period * self.size > MAX_ROWS_READ
        self.period = None if long else period
        self._read: dict[int, Mixing] = {}

    def __getitem__(self, round_: int) -> Mixing:
        at = round_ % self.period if self.period else round_
        if at not in self._read:
            self._read[at] = read_round(self.topology, at)
        return self._read[at]

    @property
    def most(self) -> int:
        """Number of different rounds that can be read in a second or two."""
        return self.period or min(max(MAX_ROWS_READ // self.size // 2, 32), MAX_ROUNDS_READ)

    @property
    def shown(self) -> int:
        """Number of rounds of which the union is drawn and the traffic counted."""
        return min(self.topology.horizon(), self.most)

    def union(self) -> Iterator[Mixing]:
        """Yield the rounds to draw."""
        return (self[round_] for round_ in range(self.shown))

    @cached_property
    def circulant(self) -> bool:
        """Whether every round of the period treats all learners alike, but for a shift."""
        rounds = [self[round_] for round_ in range(self.period or 0)]
        alike = {(each.shape, each.kernel is None) for each in rounds}
        return alike == {(rounds[0].shape, False)} if rounds else False
