"""A gossip graph over all nodes' learners, numbered as one node numbers them."""

from __future__ import annotations

from collections.abc import Mapping

from galamp.gossip.topologies.base import Topology


class FromNode(Topology):
    """`graph`, whose learner `first` is called 0, the next one 1, and so on, round.

    `lanes` of them are the node's own (default: all).
    """

    def __init__(self, graph: Topology, first: int, lanes: int | None = None) -> None:
        super().__init__(graph.size, graph.seed)
        self._lanes = graph.size if lanes is None else lanes
        self.graph, self._first = graph, first
        self.symmetric, self.weighted = graph.symmetric, graph.weighted
        self.doubly_stochastic = graph.doubly_stochastic

    def _there(self, rank: int) -> int:
        return (rank + self._first) % self.size

    def _here(self, rank: int) -> int:
        return (rank - self._first) % self.size

    def leaves(self, rank: int, round_: int) -> bool:
        """Return whether a vector of one of the node's own goes to another node in a round."""
        return any(peer >= self._lanes for peer in self.out_peers(rank, round_))

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the out-peers in the graph."""
        return tuple(sorted(map(self._here, self.graph.out_peers(self._there(rank), round_))))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the in-peers in the graph."""
        return tuple(sorted(map(self._here, self.graph.in_peers(self._there(rank), round_))))

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the weights of the graph, in the order of the peers here."""
        there = self._there(rank)
        own, *others = self.graph.weights(there, round_)
        peers = self.graph.in_peers(there, round_)
        pairs = sorted(zip(map(self._here, peers), others, strict=True))
        return (own, *(weight for _, weight in pairs))

    def choices(self, rank: int, round_: int, mixed: Mapping[int, int]) -> tuple[int, ...]:
        """Return the choices in the graph, in its order."""
        there = {self._there(peer): last for peer, last in mixed.items()}
        return tuple(map(self._here, self.graph.choices(self._there(rank), round_, there)))

    def partial(self, round_: int) -> bool:
        """Return what the graph says."""
        return self.graph.partial(round_)

    def period(self) -> int | None:
        """Return the period of the graph."""
        return self.graph.period()

    def horizon(self) -> int:
        """Return the horizon of the graph."""
        return self.graph.horizon()

    def most_in_peers(self) -> int:
        """Return the largest number of in-peers in the graph."""
        return self.graph.most_in_peers()

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every edge of the graph, also those that occur after its horizon."""
        found = ((self._here(sender), self._here(to)) for sender, to in self.graph.edges())
        return tuple(sorted(found))

    def rounds_outside(self) -> int | None:
        """Return the most rounds in a row in which a learner here receives from other nodes only.

        None if a learner has no others, or one in which it receives from both.
        """
        period = self.graph.period()
        if period is None:
            return None
        longest = 0
        for rank in range(self._lanes):
            in_a_row, inside = 0, False
            for round_ in range(2 * period):  # twice: a row may go on from the end to the beginning
                peers = self.in_peers(rank, round_)
                kinds = {peer < self._lanes for peer in peers}
                if len(kinds) > 1:
                    return None
                inside |= kinds == {True}
                in_a_row = in_a_row + 1 if kinds == {False} else 0
                longest = max(longest, in_a_row)
            if not inside:
                return None
        return longest
