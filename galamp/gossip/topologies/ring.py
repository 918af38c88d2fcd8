"""Directed ring: the graph of the GALA paper's experiments."""

from __future__ import annotations

from galamp.gossip.topologies.circulant import Circulant


class DirectedRing(Circulant):
    """Learner r sends to r + 1 and receives from r - 1 (Assran et al. 2019)."""

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return the offset of the next learner; a ring of one learner has no edge."""
        return () if self.size == 1 else (1,)
