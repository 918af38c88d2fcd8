"""Circulant graphs: every learner sends to the same offsets of its own rank."""

from __future__ import annotations

from abc import abstractmethod

from galamp.gossip.topologies.base import Topology


class Circulant(Topology):
    """In round k, learner r sends to r + d (mod n) for every d of `offsets(k)`."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.symmetric = all(
            {size - offset for offset in self.offsets(round_)} == set(self.offsets(round_))
            for round_ in range(self.period() or 1)
        )

    @abstractmethod
    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return the offsets of round `round_`, all different, from 1 to n - 1."""

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners at rank + offset."""
        return tuple(sorted((rank + offset) % self.size for offset in self.offsets(round_)))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners at rank - offset."""
        return tuple(sorted((rank - offset) % self.size for offset in self.offsets(round_)))
