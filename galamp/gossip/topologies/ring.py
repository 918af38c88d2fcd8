"""The directed ring, the graph of the GALA paper's experiments."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class DirectedRing(Topology):
    """Learner r sends to r + 1 and receives from r - 1 (Assran et al. 2019)."""

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the next learner; a ring of one has no edge."""
        return () if self.size == 1 else ((rank + 1) % self.size,)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the previous learner."""
        return () if self.size == 1 else ((rank - 1) % self.size,)
