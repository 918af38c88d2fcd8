"""Consensus distance: distances between published vectors, measured on complete vectors only.

    every learner's newest publication --copy--> differences --chunk by chunk--> distances

Runs in the supervisor. The copies need not be of the same moment: a vector is identified by its
number, and the certificate bounds the distances of the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.memory.versioned_slots import Header

CHUNK = 2**15
"""Elements of each vector that are processed together: they fit into the cache."""
TRIES = 5


class Measured(NamedTuple):
    """Measured L2 distances of vectors `numbers` [n]: to their mean [n], between them [n, n].

    `versions` [n]: the number of updates in each vector. `norm`: L2 norm of the mean.
    """

    numbers: tuple[int, ...]
    versions: tuple[int, ...]
    to_mean: npt.NDArray[np.float64]
    pairwise: npt.NDArray[np.float64]
    norm: float


class DistanceMeter:
    """Copies and compares the first `size` elements of every learner's newest vector."""

    def __init__(self, slots: Sequence[ParameterSlots], size: int) -> None:
        self._slots, self._size = slots, size
        self._copies: npt.NDArray[np.float32] | None = None

    def distances(self) -> Measured | None:
        """Measure; None if a learner has not published yet, or publishes too fast for a copy."""
        headers = self._copy_all()
        if headers is None:
            return None
        assert self._copies is not None
        pairwise, norm = distances_between(self._copies)
        squares = pairwise**2
        to_mean = np.sqrt((squares.mean(1) - squares.mean() / 2).clip(0.0))
        numbers = tuple(header.number for header in headers)
        return Measured(numbers, tuple(h.version for h in headers), to_mean, pairwise, norm)

    def recent(self) -> tuple[list[tuple[int, int]], npt.NDArray[np.float64]]:
        """Measure all learners' last two publications: (learner, number) of each, and distances.

        A vector that is mixed now is one of these, unless a learner is much slower than its peers.
        """
        vectors: list[tuple[int, int]] = []
        copies = np.empty((2 * len(self._slots), self._size), np.float32)
        for rank, slots in enumerate(self._slots):
            for number in (slots.published, slots.published - 1):
                header = self._copy(copies[len(vectors)], slots, number) if number > 0 else None
                if header is not None:
                    vectors.append((rank, header.number))
        return vectors, distances_between(copies[: len(vectors)])[0]

    def mean_cosine(self) -> float | None:
        """Return the mean cosine between different learners' vectors; None if unknown."""
        if len(self._slots) < 2 or self._copy_all() is None:
            return None
        assert self._copies is not None
        inner = sum(part @ part.T for part in _chunks(self._copies))
        norms = np.sqrt(np.diag(inner))
        if not norms.all():
            return None
        cosines = inner / np.outer(norms, norms)
        return float(cosines[~np.eye(len(self._slots), dtype=bool)].mean())

    def _copy_all(self) -> list[Header] | None:
        if self._copies is None:
            self._copies = np.empty((len(self._slots), self._size), np.float32)
        headers = []
        for copy, slots in zip(self._copies, self._slots, strict=True):
            header = self._copy(copy, slots)
            if header is None:
                return None
            headers.append(header)
        return headers

    def _copy(
        self, copy: npt.NDArray[np.float32], slots: ParameterSlots, number: int | None = None
    ) -> Header | None:
        for _ in range(TRIES):
            read = slots.begin_read(number)
            if read is not None:
                np.copyto(copy, slots.payload[read.slot, : self._size].numpy())
                if slots.unchanged(read):
                    return read.header
        return None


def distances_between(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the pairwise L2 distances [n, n] of `vectors` [n, size], and the norm of their mean.

    Differences are taken first, in float64: the vectors are much longer than their distances.
    """
    count = len(vectors)
    inner, square = np.zeros((count, count)), 0.0
    for part in _chunks(vectors):
        mean = part.mean(0)
        square += float(mean @ mean)
        part -= part[0].copy()
        inner += part @ part.T
    diagonal = np.diag(inner)
    squares = (diagonal[:, None] + diagonal[None, :] - 2 * inner).clip(0.0)
    np.fill_diagonal(squares, 0.0)
    return np.sqrt(squares), square**0.5


def _chunks(vectors: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield copies [n, up to CHUNK] of all of `vectors`."""
    for at in range(0, vectors.shape[1], CHUNK):
        yield vectors[:, at : at + CHUNK].astype(np.float64)
