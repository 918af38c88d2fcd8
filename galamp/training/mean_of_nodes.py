"""Mean of the learners of all nodes, for the checkpoints of the lowest node that is there.

    every tick: who is there --follow--> vectors of learners whose node has just left
    checkpoint --elsewhere--> Elsewhere --mean, in the writer thread--> mean [P], of how many

Runs in the supervisor. Mirrors hold the newest vectors that have come, so they are a little older
than what their learners have by now. Nodes end a run one after the other, and so do the learners
of one: what one had that was there a moment before the end still counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import FOLLOWS
from galamp.supervision.layout import RunLayout

Vector = npt.NDArray[np.float32]
LEFT_S = 5.0
"""A learner that was last there so long before the end of the run, at most, has ended it, too."""


class MeanVector(NamedTuple):
    """A mean [P], and the number of learners that it is of."""

    vector: Vector
    learners: int


class Elsewhere(NamedTuple):
    """Learners of other nodes: the slots of those that are there, and vectors of those that left.

    Slots are read when the mean is taken, which may be in another thread.
    """

    slots: list[ParameterSlots]
    left: list[Vector]

    def mean(self, own: Sequence[Vector]) -> MeanVector | None:
        """Return the mean of `own` parameters [P] and of those elsewhere; None if there are none.

        Takes the memory of one vector of twice the precision.
        """
        total, count = own[0].astype(np.float64), len(own)
        for vector in own[1:]:
            total += vector
        for vector in self._vectors(own[0].size):
            total += vector
            count += 1
        if count == len(own):
            return None
        return MeanVector((total / count).astype(np.float32), count)

    def _vectors(self, size: int) -> Iterator[Vector]:
        for slots in self.slots:
            vector = _newest(slots, size)
            if vector is not None:
                yield vector
        yield from self.left


class MeanOfNodes:
    """Knows the other nodes' learners of one run; in a run on one machine there are none."""

    def __init__(self, run_layout: RunLayout) -> None:
        self._board, self._control = run_layout.board, run_layout.control
        self._ranks, self._size = run_layout.plan.ranks, run_layout.sketch.parameters
        self._slots = {rank: ParameterSlots(run_layout.arrays, rank) for rank in self._ranks.remote}
        self._there_s = dict[int, float]()
        """When each learner was there last."""
        self._left = dict[int, Vector]()
        """Vectors of learners whose node has left."""

    def follow(self, now_s: float) -> None:
        """Note who is there, and what those had whose nodes have left since the last call."""
        if self._board is None:
            return
        for rank in self._ranks.remote:
            if self._board.node(self._ranks.node_of(rank), "present"):
                self._left.pop(rank, None)
                if self._has(rank):
                    self._there_s[rank] = now_s
            elif not self._was_there(rank, now_s):
                self._left.pop(rank, None)
            elif rank not in self._left:
                vector = _newest(self._slots[rank], self._size)
                if vector is None:  # it is not to be had any more
                    del self._there_s[rank]
                else:
                    self._left[rank] = vector

    def elsewhere(self, now_s: float, *, ends: bool) -> Elsewhere | None:
        """Return the other nodes' learners; None where another node saves their mean.

        With `ends`, at the end of the run, those that have just left or died count as well.
        """
        if self._board is None or any(
            self._board.node(node, "present") for node in range(self._ranks.node)
        ):
            return None
        recent = {rank for rank in self._there_s if ends and self._was_there(rank, now_s)}
        there = {
            rank: self._slots[rank]
            for rank in self._ranks.remote
            if self._has(rank) or (rank in recent and self._board.rank(rank, "mirrored"))
        }
        left = [self._left[rank] for rank in recent - set(there) if rank in self._left]
        return Elsewhere(list(there.values()), left)

    def _was_there(self, rank: int, now_s: float) -> bool:
        """Whether another node's learner lived a moment ago, and its vector was here."""
        return now_s - self._there_s.get(rank, -math.inf) <= LEFT_S

    def _has(self, rank: int) -> bool:
        """Whether another node's learner lives, and its newest vector is here."""
        assert self._board is not None
        return self._control.alive(rank) and bool(self._board.rank(rank, "mirrored"))


def _newest(slots: ParameterSlots, size: int) -> Vector | None:
    """Return a copy of the newest vector of another node's learner; None if it follows by now."""
    vector = slots.copy(size)
    read = slots.begin_read()  # after it: what follows, is written once, and stays
    if vector is None or read is None or read.header.incarnation == FOLLOWS:
        return None
    return vector.numpy()
