"""Periodic global average: a gossip graph, in which every H-th round joins all learners."""

from __future__ import annotations

import math
from collections.abc import Mapping

from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.complete import Complete


class PeriodicGlobalAverage(Topology):
    """`graph`, but in rounds H - 1, 2 H - 1, ... everyone averages with all, with equal weights.

    Gossip-PGA (Chen et al. 2021): in lock-step such a round leaves no disagreement, so none is
    older than H rounds. Over the graph without edges this is local SGD. With H = 1 it is the
    complete graph.
    """

    def __init__(self, graph: Topology, every: int) -> None:
        """Wrap `graph`; `every` is H, at least 1."""
        super().__init__(graph.size, graph.seed)
        self.graph, self.every = graph, every
        self.symmetric, self.doubly_stochastic = graph.symmetric, graph.doubly_stochastic
        if every == 1:
            self.symmetric = self.doubly_stochastic = True
        self._all = Complete(graph.size)
        self._period = self._repeats_after()

    def _of(self, round_: int) -> Topology:
        return self.graph if (round_ + 1) % self.every else self._all

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the out-peers in the graph, or all other learners."""
        return self._of(round_).out_peers(rank, round_)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the in-peers in the graph, or all other learners."""
        return self._of(round_).in_peers(rank, round_)

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the weights of the graph, or 1/n for everyone."""
        return self._of(round_).weights(rank, round_)

    def choices(self, rank: int, round_: int, mixed: Mapping[int, int]) -> tuple[int, ...]:
        """Return the choices in the graph; none in a global round."""
        return self._of(round_).choices(rank, round_, mixed)

    def partial(self, round_: int) -> bool:
        """Return whether the round is global."""
        return self._of(round_) is self._all

    def period(self) -> int | None:
        """Return the least common multiple of H and the period of the graph; 1 if all is global."""
        return self._period

    def _repeats_after(self) -> int | None:
        period, ranks = self.graph.period(), range(self.size)
        if self.every == 1:
            return 1
        if period is None:
            return None
        weights, those_of_all = self.graph.weights, self._all.weights
        if period == 1 and all(weights(rank, 0) == those_of_all(rank, 0) for rank in ranks):
            return 1
        return math.lcm(period, self.every)

    def horizon(self) -> int:
        """Return H: one of so many rounds is global."""
        return self.every

    def most_in_peers(self) -> int:
        """Return n - 1, the in-peers in a global round."""
        return self.size - 1

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return all ordered pairs of learners."""
        return self._all.edges()
