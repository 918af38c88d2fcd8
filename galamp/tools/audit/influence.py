"""Influence: how much each learner's updates weigh in the mean of all learners' last vectors.

    Start, Publication, Lost, Rebase --Influence--> a Share per learner

Runs in the audit's process. A vector is a weighted sum of all updates u_e before it (`coefficients`
says how), with coefficients c_v(e) that come from the recorded mixing weights alone. The influence
of learner i on the mean of n vectors v is

    (1 / n) sum over v of s_v(i),     s_v(i) = sum over updates e of learner i of c_v(e) w(e)

with w(e) the optimiser's updates in publication e. s mixes by the same weights as the vectors do,
so one number per learner and kept vector is exact, however long the run was. On a doubly stochastic
graph in lock-step every update weighs 1 / n, and influence is proportional to the updates made;
messages that are dropped, late or renormalised change that. With outer steps, which publications
hold as part of updates, the result is an estimate: of them it knows nothing.

Of one of several machines, whose record has no mixes of the others', it says nothing.

What was before the last start counts for nothing. Nor does what a vector contains that is placed by
measurement after a gap: it is taken for its anchor, and the result is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from galamp.gossip.transport.publication import Publication
from galamp.storage.gossip_log import Lost, Rebase, Start

KEPT, MIN_KEPT = 64, 8
"""Most and fewest newest vectors of each learner that later lines may mix."""
LIMIT_BYTES = 64 * 2**20


class Share(NamedTuple):
    """Learner's part of all optimiser's updates, and of their weight in the mean: each sums to 1.

    Attributes:
        learner: its rank.
        updates: updates of the optimiser in its recorded publications.
        of_updates: their share.
        of_influence: their share, each times its weight in the mean.
    """

    learner: int
    updates: float
    of_updates: float
    of_influence: float


class Influence:
    """The state after some lines of the record; lines that contradict it are not to be given."""

    def __init__(self) -> None:
        self.placed = self.unknown = 0
        """Vectors since the start that were placed by measurement; publications not followed."""
        self.outer = False
        """Whether outer steps take the place of averages."""
        self._learners, self._others_mix = 0, False

    @property
    def exact(self) -> bool:
        """Whether nothing had to be estimated or left out."""
        return not self.placed and not self.unknown and not self.outer

    def start(self, entry: Start) -> None:
        """Begin with number 0 of each learner, without influence of anyone."""
        self._learners, self._others_mix = entry.learners, entry.place is not None
        self.outer = entry.outer
        fitting = LIMIT_BYTES // (8 * entry.learners**2)
        self._kept = max(MIN_KEPT, min(KEPT, fitting))
        self._clear()
        for numbers in self._numbers:
            numbers[0] = 0
        if entry.start == 1:  # of a resumed run, no line says how many there were before
            self._versions.update(dict.fromkeys(range(entry.learners), 0))

    def _clear(self) -> None:
        n = self._learners
        self.placed = self.unknown = 0
        self._sums = np.zeros((n, self._kept, n))
        self._numbers = [[-1] * self._kept for _ in range(n)]
        self._last = np.zeros((n, n))
        self._updates = np.zeros(n)
        self._versions: dict[int, int] = {}

    def publish(self, entry: Publication) -> None:
        """Mix, and add the updates of a publication."""
        learner, count = entry.learner, self._count(entry)
        parts = [(learner, entry.number - 1, entry.own), *entry.mixed]
        known = [(self._find(peer, number), weight) for peer, number, weight in parts if weight > 0]
        sums, total = np.zeros(self._learners), 0.0
        for found, weight in known:
            if found is None:
                self.unknown += 1
                self._forget(learner, entry.number)
                return
            sums += weight * found
            total += weight
        sums /= total
        sums[learner] += count
        self._updates[learner] += count
        self._keep(learner, entry.number, sums)

    def lose(self, entry: Lost) -> None:
        """Forget what a learner's vectors contain."""
        self._versions.pop(entry.learner, None)
        self._forget(entry.learner, entry.number)

    def rebase(self, entry: Rebase) -> None:
        """Take an unknown vector for its anchor; start again where it is its own."""
        if self._find(entry.learner, entry.number) is not None:
            return
        if entry.anchor == (entry.learner, entry.number):
            self._clear()
            self._keep(entry.learner, entry.number, np.zeros(self._learners))
        elif (anchor := self._find(*entry.anchor)) is not None:
            self._keep(entry.learner, entry.number, anchor.copy())
        self.placed += 1

    def shares(self) -> list[Share]:
        """Return every learner's share; nothing before the first update, or if others mix, too."""
        if self._others_mix:
            return []
        mean = self._last.mean(axis=0) if self._learners else np.zeros(0)
        if not mean.sum() > 0:
            return []
        each: Iterable[tuple[float, ...]] = zip(
            self._updates.tolist(),
            (self._updates / self._updates.sum()).tolist(),
            (mean / mean.sum()).tolist(),
            strict=True,
        )
        return [Share(rank, *values) for rank, values in enumerate(each)]

    def _count(self, entry: Publication) -> float:
        """Return the optimiser's updates since the learner's last publication; 1 if unknown."""
        before = self._versions.get(entry.learner, entry.version - 1)
        self._versions[entry.learner] = entry.version
        return float(max(0, entry.version - before))

    def _find(self, learner: int, number: int) -> NDArray[np.float64] | None:
        at = number % self._kept
        if self._numbers[learner][at] != number:
            return None
        found: NDArray[np.float64] = self._sums[learner, at]
        return found

    def _forget(self, learner: int, number: int) -> None:
        self._numbers[learner][number % self._kept] = -1

    def _keep(self, learner: int, number: int, sums: NDArray[np.float64]) -> None:
        at = number % self._kept
        self._sums[learner, at] = self._last[learner] = sums
        self._numbers[learner][at] = number
