"""Bidirectional ring: neighbours exchange in both directions."""

from __future__ import annotations

from galamp.gossip.topologies.circulant import Circulant


class BidirectionalRing(Circulant):
    """Learner r exchanges with r - 1 and r + 1; with two learners, these are the same one."""

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return the offsets of both neighbours; there is only one for two learners."""
        return () if self.size == 1 else tuple({1, self.size - 1})
