"""Torus: a grid of learners whose opposite sides are joined."""

from __future__ import annotations

import math

from galamp.gossip.topologies.base import Topology


class Torus(Topology):
    """Learner r is at row r // columns, column r % columns, and exchanges with its neighbours.

    The grid is as square as n allows: `rows` is the largest divisor of n up to its square root. A
    side of length 2 has one neighbour in both directions, a side of length 1 has none. So for a
    prime n this is the bidirectional ring.
    """

    symmetric = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.rows = next(d for d in range(math.isqrt(size), 0, -1) if size % d == 0)
        self.columns = size // self.rows

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return up to four neighbours."""
        row, column = divmod(rank, self.columns)
        found = set()
        for step in (-1, 1):
            found.add((row + step) % self.rows * self.columns + column)
            found.add(row * self.columns + (column + step) % self.columns)
        return tuple(sorted(found - {rank}))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return up to four neighbours."""
        return self.out_peers(rank, round_)
