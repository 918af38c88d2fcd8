r"""Certificate: upper bounds on the distances between learners, from the record of their gossip.

    Publication, causes before effects --Certificate--> bounds on distances

Pure: no process, no clock. Every published vector is the common start plus a weighted sum of all
updates u_e so far, v = x_0 + sum of c_v(e) u_e, and an average of vectors averages the coefficients
in the same way. So, with any delays, dropped messages and dead learners,

    ||v - w||  <=  sum over e of |c_v(e) - c_w(e)| ||u_e||                              (1)

This needs no assumption about the updates (it is the epsilon-ball of Assran et al. 2019, with the
recorded history in place of the worst case). Memory is bounded: coefficients are kept only for a
window of the newest updates of each learner. For updates that have left the window, the right side
of (1) is kept as one matrix R, over the vectors that can still be mixed. R is a distance between
coefficient vectors, so it is convex in each of them, and a new vector n = sum of w_k v_k satisfies

    R(n, z)  <=  sum of w_k R(v_k, z)                                                   (2)

R(n, z) is set to the right side of (2). An update that leaves the window adds its term of (1) to R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.transport.publication import Publication

Matrix = npt.NDArray[np.float64]

WINDOW = 128
"""Updates of each learner whose coefficients are kept."""
MAX_KEPT, MIN_KEPT = 64, 8
"""Most and fewest newest publications of each learner that are kept, and so can be mixed.

If a learner publishes once while its peer publishes more often than this, its bound is unknown
until the next measurement.
"""
MAX_COEFFICIENTS = 4096
"""Most coefficients of a vector, over all learners: with more than 32 learners windows shrink."""
MAX_VECTORS = 256
"""Most vectors that are kept, over all learners."""
EVICTED_AT_ONCE = 16
"""Number of updates that leave the window at the same time."""
NEGLIGIBLE = 1e-9
"""Share of all lengths in the window below which one term is used for all pairs of vectors."""


class Bounds(NamedTuple):
    """Upper bounds on distances, inf where unknown: to the mean [n], between vectors [n, n]."""

    to_mean: Matrix
    pairwise: Matrix


class Certificate:
    """Bounds for `learners` learners; each starts with vector number 0."""

    def __init__(
        self, learners: int, *, window: int | None = None, kept: int | None = None
    ) -> None:
        self._learners = learners
        window = window or max(2 * EVICTED_AT_ONCE, min(WINDOW, MAX_COEFFICIENTS // learners))
        self._kept = kept or max(MIN_KEPT, min(MAX_KEPT, MAX_VECTORS // learners))
        self._window = window
        rows = learners * self._kept
        self._coefficients = np.zeros((rows, learners, window))
        self._lengths = np.zeros((learners, window))
        self._updates = [0] * learners
        self._rest: Matrix = np.full((rows, rows), np.inf)
        self._numbers = np.full(rows, -1)
        self._known = np.zeros(rows, dtype=bool)

    def start(self, distances: npt.ArrayLike, *, known: bool = True) -> None:
        """Start all learners at vector number 0, with the given distances [n, n] between them.

        If they are not `known`, nor is any later vector until one is measured.
        """
        self._numbers.fill(-1)
        self._known.fill(False)
        for learner in range(self._learners):
            self._place(learner, 0, None)
        if not known:
            return
        rows = np.arange(self._learners) * self._kept
        self._rest[np.ix_(rows, rows)] = distances
        np.fill_diagonal(self._rest, 0.0)
        self._known[rows] = True

    def is_kept(self, learner: int, number: int) -> bool:
        """Whether a vector is kept, so that it can be mixed."""
        return self._row(learner, number) is not None

    def is_known(self, learner: int, number: int) -> bool:
        """Whether a vector is kept and its coefficients are known."""
        row = self._row(learner, number)
        return row is not None and bool(self._known[row])

    def has_unknown(self) -> bool:
        """Whether the coefficients of a vector that is kept are unknown."""
        return bool((self._numbers[~self._known] >= 0).any())

    def publish(self, publication: Publication) -> None:
        """Add a publication. If the coefficients of a source are unknown, so are its own.

        Raises:
            KeyError: one of its sources is not kept.
        """
        learner, number = publication.learner, publication.number
        sources = [self._kept_row(learner, number - 1)]
        sources += [self._kept_row(source.peer, source.number) for source in publication.mixed]
        weights = [publication.own, *(source.weight for source in publication.mixed)]
        if not self._known[sources].all():
            self.add_unknown(learner, number)
            return
        coefficients = np.tensordot(weights, self._coefficients[sources], 1)
        row = self._place(learner, number, coefficients, np.dot(weights, self._rest[sources]))
        self._known[row] = True
        self._add_update(row, learner, publication.length)

    def add_unknown(self, learner: int, number: int) -> None:
        """Add a vector with unknown coefficients: of a new incarnation, or after a gap."""
        self._known[self._place(learner, number, None)] = False

    def reset(self) -> None:
        """Drop all vectors: the sources of later publications are not kept any more."""
        self._numbers.fill(-1)
        self._known.fill(False)

    def rebase(self, learner: int, number: int, peer: int, earlier: int, distance: float) -> None:
        """Make a vector known again, from its measured `distance` to a known vector of `peer`.

        Raises:
            KeyError: one of the two vectors is not kept.
        """
        self._kept_row(learner, number)
        anchor = self._kept_row(peer, earlier)
        rest = self._rest[anchor] + distance
        row = self._place(learner, number, self._coefficients[anchor].copy(), rest)
        self._known[row] = self._known[anchor]

    def restart(self, learner: int, number: int) -> None:
        """Restart from one vector, when none is known any more: all others are unknown."""
        row = self._kept_row(learner, number)
        self._known.fill(False)
        self._rest.fill(np.inf)
        np.fill_diagonal(self._rest, 0.0)
        self._coefficients.fill(0.0)
        self._known[row] = True

    def bounds(self, numbers: Sequence[int]) -> Bounds | None:
        """Return the bounds for one vector of each learner; None if one is not kept any more."""
        found = [self._row(learner, number) for learner, number in enumerate(numbers)]
        rows = [row for row in found if row is not None]
        if len(rows) < self._learners:
            return None
        chosen = self._coefficients[rows] * self._lengths  # [n, n, window]
        rest = self._rest[np.ix_(rows, rows)]
        pairwise = np.stack([np.abs(one - chosen).sum((1, 2)) for one in chosen]) + rest
        to_mean = np.abs(chosen - chosen.mean(0)).sum((1, 2)) + rest.mean(1)
        return Bounds(to_mean, pairwise)

    def _row(self, learner: int, number: int) -> int | None:
        """Return the row of a vector; None if it is not kept."""
        row = learner * self._kept + number % self._kept
        return row if self._numbers[row] == number else None

    def _kept_row(self, learner: int, number: int) -> int:
        row = self._row(learner, number)
        if row is None:
            raise KeyError((learner, number))
        return row

    def _place(
        self, learner: int, number: int, coefficients: Matrix | None, rest: Matrix | None = None
    ) -> int:
        """Put a vector into its row; it replaces an older vector of the same learner."""
        row = learner * self._kept + number % self._kept
        self._coefficients[row] = 0.0 if coefficients is None else coefficients
        self._rest[row] = self._rest[:, row] = np.inf if rest is None else rest
        self._rest[row, row] = 0.0
        self._numbers[row] = number
        return row

    def _add_update(self, row: int, learner: int, length: float) -> None:
        """Add an update of length `length` by `learner` to the vector in `row`."""
        column = self._updates[learner] % self._window
        if column % EVICTED_AT_ONCE == 0:
            self._evict(learner, slice(column, min(column + EVICTED_AT_ONCE, self._window)))
        self._updates[learner] += 1
        self._lengths[learner, column] = length
        self._coefficients[row, learner, column] = 1.0

    def _evict(self, learner: int, columns: slice) -> None:
        """Move the terms of some updates from the window into R (`_rest`)."""
        lengths = self._lengths[learner, columns]
        terms = self._coefficients[:, learner, columns] * lengths
        # Unknown vectors have an infinite R, whatever is added to it.
        spans = np.ptp(terms[self._known], axis=0) if self._known.any() else np.zeros_like(lengths)
        small = spans <= NEGLIGIBLE * self._lengths.sum()
        self._rest += spans[small].sum()
        for term in terms.T[~small]:
            apart = np.subtract.outer(term, term)
            self._rest += np.abs(apart, out=apart)
        np.fill_diagonal(self._rest, 0.0)
        self._coefficients[:, learner, columns] = 0.0
        self._lengths[learner, columns] = 0.0
