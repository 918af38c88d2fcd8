"""What a gossip graph is: a pure function of (rank, round). No torch, no processes."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Topology(ABC):
    """A directed graph over `size` learners that may change from round to round.

    `j in out_peers(i, k)` exactly when `i in in_peers(j, k)`; nobody is its own peer. Peers come
    in ascending order, so that sums over them are repeatable.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return to whom `rank` sends in round `round_`."""

    @abstractmethod
    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return from whom `rank` receives in round `round_`."""

    def period(self) -> int:
        """Return after how many rounds the graph repeats."""
        return 1

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every (sender, receiver) that occurs in a period, in ascending order."""
        found = {
            (rank, peer)
            for round_ in range(self.period())
            for rank in range(self.size)
            for peer in self.out_peers(rank, round_)
        }
        return tuple(sorted(found))
