"""The ring whose neighbours exchange both ways."""

from __future__ import annotations

from galamp.gossip.topologies.circulant import Circulant


class BidirectionalRing(Circulant):
    """Learner r exchanges with r - 1 and r + 1; of two learners, each has the one other."""

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return the steps to both neighbours, which are one for two learners."""
        return () if self.size == 1 else tuple({1, self.size - 1})
