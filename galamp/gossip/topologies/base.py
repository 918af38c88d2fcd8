"""What a gossip graph is: a pure function of (rank, round). No torch, no processes.

In round k learner i averages its own vector with those of `in_peers(i, k)`, by `weights(i, k)`: row
i of the mixing matrix P_k. The rows sum to 1; where the columns do too (P_k is doubly stochastic),
an averaging round in lock-step leaves the mean over learners as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Topology(ABC):
    """A directed graph over `size` learners that may change from round to round.

    `j in out_peers(i, k)` exactly when `i in in_peers(j, k)`; nobody is its own peer. Peers come
    in ascending order, so that sums over them are repeatable.

    Attributes:
        size: number of learners n, at least 1.
        seed: what random graphs are drawn from; the others ignore it.
        doubly_stochastic: whether the columns of every mixing matrix sum to 1, too.
        symmetric: whether whoever sends to a peer also receives from it, in every round.
    """

    doubly_stochastic = True
    symmetric = False

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    @abstractmethod
    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return to whom `rank` sends in round `round_`."""

    @abstractmethod
    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return from whom `rank` receives in round `round_`."""

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the weight of `rank` itself, then those of its in-peers, in their order.

        The same for all (Assran et al. 2019) unless the graph says otherwise.
        """
        count = 1 + len(self.in_peers(rank, round_))
        return (1.0 / count,) * count

    def period(self) -> int | None:
        """Return after how many rounds the graph repeats; None if it never does."""
        return 1

    def horizon(self) -> int:
        """Return over how many rounds, from any on, its edges connect everyone with everyone.

        For random graphs: but for a probability below 1e-9.
        """
        return self.period() or 1

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every (sender, receiver) that can ever occur, in ascending order."""
        found = {
            (rank, peer)
            for round_ in range(self.horizon())
            for rank in range(self.size)
            for peer in self.out_peers(rank, round_)
        }
        return tuple(sorted(found))
