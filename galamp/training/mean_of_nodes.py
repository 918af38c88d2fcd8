"""Mean of the learners of all nodes, for the checkpoints of the lowest node that is there.

    every tick: who is there --follow--> vectors of nodes that have just left
    checkpoint --elsewhere--> Elsewhere --mean, in the writer thread--> mean [P], of how many

Runs in the supervisor. Mirrors hold the newest vectors that have come, so they are a little older
than what their learners have by now. Nodes end a run one after the other: what one had that has
left a moment before the end still counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import FOLLOWS
from galamp.supervision.layout import RunLayout

if TYPE_CHECKING:
    from galamp.memory.cluster_board import ClusterBoard

Vector = npt.NDArray[np.float32]
LEFT_S = 5.0
"""A node that has left so long before the end of the run, at most, has ended it as well."""


class MeanVector(NamedTuple):
    """A mean [P], and the number of learners that it is of."""

    vector: Vector
    learners: int


class Left(NamedTuple):
    """What a node had that has left."""

    at_s: float
    vectors: list[Vector]


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
        self._there = dict[int, list[int]]()
        self._left = dict[int, Left]()

    def follow(self, now_s: float) -> None:
        """Note who is there, and what those had that have left since the last call."""
        if self._board is None:
            return
        for node in set(range(self._ranks.nodes)) - {self._ranks.node}:
            self._follow(self._board, node, now_s)

    def _follow(self, board: ClusterBoard, node: int, now_s: float) -> None:
        if board.node(node, "present"):
            self._left.pop(node, None)
            self._there[node] = [rank for rank in self._ranks.learners_of(node) if self._has(rank)]
        elif self._there.get(node):
            slots = [self._slots[rank] for rank in self._there.pop(node)]
            vectors = [_newest(each, self._size) for each in slots]
            self._left[node] = Left(now_s, [each for each in vectors if each is not None])
        elif node in self._left and now_s - self._left[node].at_s > LEFT_S:
            del self._left[node]

    def elsewhere(self, now_s: float, *, ends: bool) -> Elsewhere | None:
        """Return the other nodes' learners; None where another node saves their mean.

        With `ends`, at the end of the run, those of nodes that have just left count as well.
        """
        if self._board is None or any(
            self._board.node(node, "present") for node in range(self._ranks.node)
        ):
            return None
        there = [self._slots[rank] for rank in self._ranks.remote if self._has(rank)]
        recent = [left for left in self._left.values() if ends and now_s - left.at_s <= LEFT_S]
        return Elsewhere(there, [vector for left in recent for vector in left.vectors])

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
