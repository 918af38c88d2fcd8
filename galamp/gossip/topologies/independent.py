"""Graph without edges: learners train side by side and never exchange anything."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class Independent(Topology):
    """The empty graph."""

    symmetric = True

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return no peer."""
        return ()

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return no peer."""
        return ()
