"""Vectors as sums of updates, and what that proves of the distances between them.

Runs in the audit's process; `replay` says what is mixed with what.

    start, write --Columns: coefficients--> bounds
              negligible updates --_Tail---------^

Every vector is a weighted sum of the vectors at the start and of all updates since:

    v = sum over i of a_v(i) x_0(i) + sum over e of c_v(e) u_e,     sum over i of a_v(i) = 1,

and a and c mix by the same weights as the vectors do. So for any two vectors

    ||v - w|| <= sum over e of |c_v(e) - c_w(e)| ||u_e|| + transport(a_v, a_w) + dropped.

transport: what a_v has more than a_w of some x_0(i) is moved to where it has less, at the measured
distances between the x_0, each surplus shared out by the shortages.

dropped: every later vector is a convex combination of those still kept, so for no update can the
greatest coefficient minus the least one over the kept vectors ever grow. What an update can
contribute to any pair, for ever, is at most that range times its length; once this is negligible,
or memory is full, it is added to `dropped` and the update forgotten. `dropped` shrinks, too. Let
b_v(k) be the weights of v on those vectors k that were kept at some moment. If they have a sum of
minima m = sum over k of (min over v of b_v(k)) in common, then all that depends on the vectors of
that moment alone differs between any two by at most 1 - m of what it did then (Doeblin 1937).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galamp.storage.gossip_log import Start

Floats: TypeAlias = NDArray[np.float64]

COLUMNS_PER_LEARNER = 4096
LIMIT_BYTES = 256 * 2**20
"""Memory of the coefficients; an update in the window takes 8 bytes per kept vector."""

NEGLIGIBLE = 1e-15
"""Share of the total length in the window: a hundred million such drops change no significant
digit."""


class Bounds(NamedTuple):
    """Proven bounds for one vector per learner.

    Attributes:
        to_mean: [learners], of each one's L2 distance to the mean of all.
        pairwise: of the greatest distance between two.
    """

    to_mean: Floats
    pairwise: float


class Columns:
    """Coefficients [rows, columns]: first those of the vectors at the start, then of updates."""

    def __init__(self, rows: int, entry: Start, limit_bytes: int) -> None:
        self.forced = 0
        """Number of updates that were dropped only because memory was full."""
        self.first = self.used = entry.learners
        most = min(COLUMNS_PER_LEARNER * self.first, limit_bytes // (8 * rows))
        self.most = max(most, 2 * self.first + 16)
        width = min(self.most, self.first + 4 * rows)
        self.matrix = np.zeros((rows, width))
        self.lengths = np.zeros(width)
        self.known = np.zeros(rows, dtype=bool)
        self.tail = _Tail(rows)
        distances = np.array(entry.distances)
        self.distances = np.maximum(distances, distances.T)
        self.apart = bool(self.distances.any())

    def start(self, row: int, learner: int) -> None:
        """Let a row be a start vector."""
        self.matrix[row, learner] = 1.0
        self.known[row] = True

    def write(self, row: int, parts: list[tuple[int, float]], length: float) -> None:
        """Let `row` be a sum of others, weights summing to 1, and an update of at most `length`."""
        if self.used == self.matrix.shape[1]:
            self._make_room()
        used, matrix = self.used, self.matrix
        source, weight = parts[0]
        mixed = matrix[source, :used] * weight
        for source, weight in parts[1:]:
            mixed += matrix[source, :used] * weight
        matrix[row, :used] = mixed
        self.known[row] = True
        self.tail.mix(row, parts)
        if length > 0:
            matrix[row, used] = 1.0
            self.lengths[used] = length
            self.used = used + 1

    def bounds(self, rows: list[int]) -> Bounds | None:
        """Return the bounds for these vectors; None where one of them is unknown."""
        if not self.known[rows].all():
            return None
        vectors = self.matrix[rows, : self.used]
        to_mean = self._apart(vectors - vectors.mean(axis=0))
        pairs = [self._apart(vectors[i + 1 :] - vectors[i]) for i in range(len(rows) - 1)]
        return Bounds(to_mean, float(max((each.max() for each in pairs), default=0.0)))

    def _apart(self, difference: Floats) -> Floats:
        """Return bounds [k] of the norms of vectors given by coefficients [k, used]."""
        bounds: Floats = np.abs(difference) @ self.lengths[: self.used] + self.tail.bound
        if self.apart:
            surplus = np.maximum(difference[:, : self.first], 0.0)
            shortage = np.maximum(-difference[:, : self.first], 0.0)
            moved = ((surplus @ self.distances) * shortage).sum(axis=1)
            mass = surplus.sum(axis=1)
            bounds += np.divide(moved, mass, out=np.zeros_like(mass), where=mass > 0)
        return bounds

    def _make_room(self) -> None:
        """Drop negligible updates; if that is not enough, widen, or drop the smallest."""
        first, used, width = self.first, self.used, self.matrix.shape[1]
        matrix = self.matrix if self.known.all() else self.matrix[self.known]
        if len(matrix) == 0:
            costs = np.zeros(used - first)
        else:
            block = matrix[:, first:used]
            costs = (block.max(axis=0) - block.min(axis=0)) * self.lengths[first:used]
        keep = costs > NEGLIGIBLE * self.lengths[first:used].sum()
        room = (width - first) * 3 // 4
        if (excess := int(keep.sum()) - room) > 0:
            if width < self.most:
                self._widen(min(self.most, 2 * width))
            else:
                least = np.argpartition(np.where(keep, costs, np.inf), excess - 1)[:excess]
                keep[least] = False
                self.forced += excess
        self.tail.add(float(costs[~keep].sum()), self.known, track=self.forced > 0)
        self._keep(first + np.flatnonzero(keep))

    def _widen(self, width: int) -> None:
        extra = width - self.matrix.shape[1]
        self.matrix = np.pad(self.matrix, ((0, 0), (0, extra)))
        self.lengths = np.pad(self.lengths, (0, extra))

    def _keep(self, columns: NDArray[Any]) -> None:
        first, end = self.first, self.first + len(columns)
        for each in (self.matrix, self.lengths):
            each[..., first:end] = each[..., columns]
            each[..., end : self.used] = 0.0
        self.used = end


class _Tail:
    """Largest possible contribution of dropped updates to the distance of any two vectors."""

    def __init__(self, rows: int) -> None:
        self._before = self._since = 0.0
        self._left = 1.0
        self._weights = np.zeros((0, rows))
        """[rows, rows], of each vector on those of the last moment; empty if not tracked."""

    @property
    def bound(self) -> float:
        return self._before * self._left + self._since

    def mix(self, row: int, parts: list[tuple[int, float]]) -> None:
        """Apply the same mix as `Columns.write`."""
        if len(self._weights):
            self._weights[row] = sum(self._weights[source] * weight for source, weight in parts)

    def add(self, costs: float, known: NDArray[np.bool_], *, track: bool) -> None:
        """Add dropped updates' ranges times lengths, taken over the rows known now."""
        self._since += costs
        if not track or not known.any():
            return
        if len(self._weights):
            common = float(self._weights[known].min(axis=0).sum())
            self._left = min(self._left, 1.0 - common)
        if not len(self._weights) or self._left < 0.5:
            # The ranges of all dropped updates hold for the rows known now: restart from here.
            self._before, self._since, self._left = self.bound, 0.0, 1.0
            self._weights = np.diag(known.astype(np.float64))
