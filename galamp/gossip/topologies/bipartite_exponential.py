"""The bipartite exponential graph: everyone in a pair that exchanges, with ever other partners."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class BipartiteExponential(Topology):
    """Even rank e is paired with odd (e + d) mod n (Assran et al. 2019, SGP).

    From round to round, d goes through the D odd numbers 1, 1 + 2, 1 + 4, 1 + 8, ... below n.

    For odd n, round k of every n leaves rank k out. The others count their positions from it on,
    0 to n - 2, and are paired as above on this even circle. Every distance stays for two rounds,
    and every n rounds begin with the next one, so that everyone is left out in one round of n and
    meets every distance in each of its positions. With distance 1 the two rounds join neighbours
    along a path through all: this connects the graph.
    """

    symmetric = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self._circle = size - size % 2
        odd = (1, *(1 + (1 << power) for power in range(1, size.bit_length())))
        self._distances = tuple(distance for distance in odd if distance < self._circle)

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner, or nobody for who is left out."""
        if self.size == 1:
            return ()
        if self.size % 2 == 0:
            return (self._across(rank, round_),)
        turn, idle = divmod(round_, self.size)
        if rank == idle:
            return ()
        partner = self._across((rank - idle - 1) % self.size, idle // 2 + turn)
        return ((partner + idle + 1) % self.size,)

    def _across(self, position: int, count: int) -> int:
        """Return the position paired with `position`, at the distance of number `count`."""
        distance = self._distances[count % len(self._distances)]
        return (position + (-distance if position % 2 else distance)) % self._circle

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the partner, or nobody for who is left out."""
        return self.out_peers(rank, round_)

    def period(self) -> int:
        """Return D for even n, n D for odd n, or 1 for a learner by itself."""
        return max(1, len(self._distances)) * (self.size if self.size % 2 else 1)

    def horizon(self) -> int:
        """Return D for even n; for odd n 4 D, since of 4 D rounds 2 D lie between two new turns."""
        if self.size % 2 == 0:
            return self.period()
        return max(1, 4 * len(self._distances))

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return every pair both ways.

        For odd n, going round the circle of n - 1 positions passes the rank left out and is one
        longer among ranks; with distance 1 none of the pairs goes round.
        """
        if self.size % 2 == 0:
            return super().edges()
        steps = {s for d in self._distances for s in (d, -d)}
        steps |= {s for d in self._distances if d > 1 for s in (d + 1, -d - 1)}
        return tuple(
            sorted({(r, (r + step) % self.size) for r in range(self.size) for step in steps})
        )
