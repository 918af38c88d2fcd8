"""Complete graph: one synchronous round averages exactly, with n - 1 messages per learner."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class Complete(Topology):
    """Every learner exchanges with all others."""

    symmetric = True

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return all other learners."""
        return (*range(rank), *range(rank + 1, self.size))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return all other learners."""
        return self.out_peers(rank, round_)
