"""Base class of gossip graphs: a pure function of (rank, round). No torch, no processes.

In round k learner i averages its own vector with those of `in_peers(i, k)`, with the mixing weights
`weights(i, k)`: row i of the mixing matrix P_k. Rows sum to 1. If columns sum to 1 as well (P_k is
doubly stochastic), a round of synchronous learners keeps the mean over all learners.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Topology(ABC):
    """Directed graph over `size` learners that may change from round to round.

    `j in out_peers(i, k)` exactly if `i in in_peers(j, k)`; a learner is never its own peer. Peers
    are in ascending order, so that sums over them are repeatable.

    Attributes:
        size: number of learners n, at least 1.
        seed: seed of random graphs; other graphs ignore it.
        doubly_stochastic: whether the columns of every mixing matrix also sum to 1.
        symmetric: whether every edge goes in both directions, in every round.
        weighted: whether the weights are part of the graph: it is not used with others.
    """

    doubly_stochastic = True
    symmetric = False
    weighted = False

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    @abstractmethod
    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners that `rank` sends to in round `round_`."""

    @abstractmethod
    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners that `rank` receives from in round `round_`."""

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the mixing weights: of `rank` itself, then of its in-peers, in their order.

        All are equal (Assran et al. 2019) unless a subclass overrides this.
        """
        count = 1 + len(self.in_peers(rank, round_))
        return (1.0 / count,) * count

    def partial(self, round_: int) -> bool:
        """Return whether an asynchronous learner averages with some in-peers if others are late.

        Otherwise it keeps its own vector until each of them has news.
        """
        return False

    def choices(self, rank: int, round_: int, mixed: Mapping[int, int]) -> tuple[int, ...]:
        """Return peers of which an asynchronous learner averages with one that has news.

        The first of them that has, in place of this round's in-peer, and with its weight. None: it
        averages with the in-peers of this round only.

        Args:
            rank: the learner.
            round_: its round.
            mixed: peer -> round in which the learner has averaged with it last.
        """
        return ()

    def period(self) -> int | None:
        """Return the number of rounds after which the graph repeats; None if it never does."""
        return 1

    def horizon(self) -> int:
        """Return a number of consecutive rounds whose edges together connect all learners.

        It holds from any round on; for random graphs with a probability above 1 - 1e-9.
        """
        return self.period() or 1

    def most_in_peers(self) -> int:
        """Return the largest number of in-peers that a learner has in any round."""
        return max(
            len(self.in_peers(rank, round_))
            for rank in range(self.size)
            for round_ in range(self.horizon())
        )

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every edge (sender, receiver) that can ever occur, in ascending order."""
        found = {
            (rank, peer)
            for round_ in range(self.horizon())
            for rank in range(self.size)
            for peer in self.out_peers(rank, round_)
        }
        return tuple(sorted(found))
