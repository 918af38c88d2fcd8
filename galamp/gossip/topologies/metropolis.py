"""Metropolis weights: with them, averaging over an irregular graph keeps the mean over learners."""

from __future__ import annotations

import math
from collections.abc import Mapping

from galamp.gossip.topologies.base import Topology


class Metropolis(Topology):
    """The edges of `graph` with weights 1 / (1 + max(deg_i, deg_j)); the own weight is the rest.

    Both ends of an edge give it the same weight. So the mixing matrix is symmetric, and therefore
    doubly stochastic, for any degrees (Xiao, Boyd and Lall 2005).
    """

    symmetric = True

    def __init__(self, graph: Topology) -> None:
        """Wrap `graph`, which must be symmetric."""
        if not graph.symmetric:
            raise ValueError("Metropolis weights need a symmetric graph")
        super().__init__(graph.size, graph.seed)
        self.graph = graph
        # Computed once: the degree of a peer costs as much as a list of its peers.
        self._degrees = (
            tuple(len(graph.in_peers(rank, 0)) for rank in range(graph.size))
            if graph.period() == 1
            else None
        )

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the out-peers in the graph."""
        return self.graph.out_peers(rank, round_)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the in-peers in the graph."""
        return self.graph.in_peers(rank, round_)

    def choices(self, rank: int, round_: int, mixed: Mapping[int, int]) -> tuple[int, ...]:
        """Return the choices in the graph, all of whose rounds have the same weights."""
        return self.graph.choices(rank, round_, mixed)

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the weight of `rank` itself, then the weights of its in-peers, in their order."""
        peers = self.in_peers(rank, round_)
        own = self._degree(rank, round_)
        shares = [1.0 / (1 + max(own, self._degree(peer, round_))) for peer in peers]
        return (1.0 - math.fsum(shares), *shares)

    def _degree(self, rank: int, round_: int) -> int:
        if self._degrees is None:
            return len(self.graph.in_peers(rank, round_))
        return self._degrees[rank]

    def period(self) -> int | None:
        """Return the period of the graph."""
        return self.graph.period()

    def horizon(self) -> int:
        """Return the horizon of the graph."""
        return self.graph.horizon()

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return the edges of the graph."""
        return self.graph.edges()
