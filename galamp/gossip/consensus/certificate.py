r"""A bound on how far apart learners can be, from what was mixed when and the updates' lengths.

    Publication, in order of cause and effect --Certificate--> bounds on distances

Pure: no process, no clock. Every published vector is a weighted sum of all updates u_e so far plus
the common start, v = x_0 + sum of c_v(e) u_e, and the coefficients mix by the same averages as the
vectors do. So, whatever the delays, the messages dropped and the learners dead,

    ||v - w||  <=  sum over e of |c_v(e) - c_w(e)| ||u_e||                              (1)

which needs no assumption on what the updates are (the epsilon-ball of Assran et al. 2019, with the
history in the place of worst cases). Memory stays bounded: coefficients are kept for the newest
updates of each learner only. For those that have left this window the right side of (1) is kept as
one matrix R of the vectors that can still be mixed. It is a distance between coefficient vectors,
thus convex in each of them, and a new vector n = sum of w_k v_k obeys

    R(n, z)  <=  sum of w_k R(v_k, z)                                                   (2)

which is what R(n, z) is set to. An update that leaves the window adds its own term of (1) to R.
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
"""Newest publications of each learner that can still be mixed; an older one is not known any more.

A learner that publishes once while its peer does so many times is lost until it is measured again.
"""
MAX_COEFFICIENTS = 4096
"""Most coefficients of a vector, all learners together: beyond 32 learners windows are shorter."""
MAX_VECTORS = 256
"""Most vectors kept, all learners together."""
EVICTED_AT_ONCE = 16
"""So many updates leave the window at once."""
NEGLIGIBLE = 1e-9
"""Share of all lengths in the window below which an update's term is the same for every pair."""


class Bounds(NamedTuple):
    """Upper bounds, inf where unknown: to the mean of the vectors [n], between them [n, n]."""

    to_mean: Matrix
    pairwise: Matrix


class Certificate:
    """The bounds for `learners` learners; each begins with vector number 0."""

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

    def start(self, distances: npt.ArrayLike) -> None:
        """Let all begin from vectors number 0 at these distances [n, n] from one another."""
        self._numbers.fill(-1)
        self._known.fill(False)
        for learner in range(self._learners):
            self._place(learner, 0, None)
        rows = np.arange(self._learners) * self._kept
        self._rest[np.ix_(rows, rows)] = distances
        np.fill_diagonal(self._rest, 0.0)
        self._known[rows] = True

    def is_kept(self, learner: int, number: int) -> bool:
        """Whether a vector is there to be mixed."""
        return self._row(learner, number) is not None

    def is_known(self, learner: int, number: int) -> bool:
        """Whether a vector is there and its way back to the start is known."""
        row = self._row(learner, number)
        return row is not None and bool(self._known[row])

    def publish(self, publication: Publication) -> None:
        """Take in a vector. What it mixed must be kept; if that is unknown, so is the vector.

        Raises:
            KeyError: something that it mixed is not kept.
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
        """Take in a vector of which nothing is known: of a new life, or after a gap."""
        self._known[self._place(learner, number, None)] = False

    def reset(self) -> None:
        """Know nothing any more: whatever comes next mixed something that is not kept."""
        self._numbers.fill(-1)
        self._known.fill(False)

    def rebase(self, learner: int, number: int, peer: int, earlier: int, distance: float) -> None:
        """Know a vector anew: it was measured to lie so far from one that is known.

        Raises:
            KeyError: one of the two is not kept.
        """
        self._kept_row(learner, number)
        anchor = self._kept_row(peer, earlier)
        rest = self._rest[anchor] + distance
        row = self._place(learner, number, self._coefficients[anchor].copy(), rest)
        self._known[row] = self._known[anchor]

    def restart(self, learner: int, number: int) -> None:
        """Begin anew from one vector, where nothing is known any more: all others are unknown."""
        row = self._kept_row(learner, number)
        self._known.fill(False)
        self._rest.fill(np.inf)
        np.fill_diagonal(self._rest, 0.0)
        self._coefficients.fill(0.0)
        self._known[row] = True

    def bounds(self, numbers: Sequence[int]) -> Bounds | None:
        """Return the bounds for one vector of each learner; None if one is not there any more."""
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
        """Return where a vector is kept; None if it is not."""
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
        """Put a vector into its row, in the place of an older one of the same learner."""
        row = learner * self._kept + number % self._kept
        self._coefficients[row] = 0.0 if coefficients is None else coefficients
        self._rest[row] = self._rest[:, row] = np.inf if rest is None else rest
        self._rest[row, row] = 0.0
        self._numbers[row] = number
        return row

    def _add_update(self, row: int, learner: int, length: float) -> None:
        """Add to the vector in `row` an update of its own learner's."""
        column = self._updates[learner] % self._window
        if column % EVICTED_AT_ONCE == 0:
            self._evict(learner, slice(column, min(column + EVICTED_AT_ONCE, self._window)))
        self._updates[learner] += 1
        self._lengths[learner, column] = length
        self._coefficients[row, learner, column] = 1.0

    def _evict(self, learner: int, columns: slice) -> None:
        """Move the terms of some updates from the window into the rest."""
        lengths = self._lengths[learner, columns]
        terms = self._coefficients[:, learner, columns] * lengths
        # What is unknown has an infinite rest, whatever is added to it.
        spans = np.ptp(terms[self._known], axis=0) if self._known.any() else np.zeros_like(lengths)
        small = spans <= NEGLIGIBLE * self._lengths.sum()
        self._rest += spans[small].sum()
        for term in terms.T[~small]:
            apart = np.subtract.outer(term, term)
            self._rest += np.abs(apart, out=apart)
        np.fill_diagonal(self._rest, 0.0)
        self._coefficients[:, learner, columns] = 0.0
        self._lengths[learner, columns] = 0.0
