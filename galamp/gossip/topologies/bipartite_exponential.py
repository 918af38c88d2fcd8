"""Bipartite exponential graph: learners exchange in pairs, with other partners in every round."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class BipartiteExponential(Topology):
    """Even rank e is paired with odd rank (e + d) mod n (Assran et al. 2019, SGP).

    The distance d changes from round to round, over the D odd numbers 1, 1 + 2, 1 + 4, 1 + 8, ...
    below n.

    For odd n, rounds form cycles of n rounds, and round k of a cycle leaves rank k out. The other
    learners get positions 0 to n - 2, counted from the rank after k, and are paired as above on
    this even circle. Every distance is used for two rounds, and every cycle starts with the next
    distance. So each learner is left out once per cycle, and meets every distance in each of its
    positions. With distance 1, two rounds join neighbours along a path through all learners, which
    connects the graph.
    """

    symmetric = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self._circle = size - size % 2
        odd = (1, *(1 + (1 << power) for power in range(1, size.bit_length())))
        self._distances = tuple(distance for distance in odd if distance < self._circle)

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner; no peer for the learner that is left out."""
        if self.size == 1:
            return ()
        if self.size % 2 == 0:
            return (self._across(rank, round_),)
        cycle, idle = divmod(round_, self.size)
        if rank == idle:
            return ()
        partner = self._across((rank - idle - 1) % self.size, idle // 2 + cycle)
        return ((partner + idle + 1) % self.size,)

    def _across(self, position: int, count: int) -> int:
        """Return the position that is paired with `position` by distance number `count`."""
        distance = self._distances[count % len(self._distances)]
        return (position + (-distance if position % 2 else distance)) % self._circle

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner; no peer for the learner that is left out."""
        return self.out_peers(rank, round_)

    def period(self) -> int:
        """Return D for even n, n D for odd n, or 1 for a single learner."""
        return max(1, len(self._distances)) * (self.size if self.size % 2 else 1)

    def horizon(self) -> int:
        """Return D for even n, 4 D for odd n: of 4 D rounds, 2 D in a row lie within one cycle."""
        if self.size % 2 == 0:
            return self.period()
        return max(1, 4 * len(self._distances))

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every pair in both directions.

        For odd n, a pair across the end of the circle of n - 1 positions also spans the rank that
        is left out: its distance in ranks is one more. With distance 1 no pair does so.
        """
        if self.size % 2 == 0:
            return super().edges()
        steps = {s for d in self._distances for s in (d, -d)}
        steps |= {s for d in self._distances if d > 1 for s in (d + 1, -d - 1)}
        return tuple(
            sorted({(r, (r + step) % self.size) for r in range(self.size) for step in steps})
        )
