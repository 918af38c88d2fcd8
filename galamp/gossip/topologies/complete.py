"""The complete graph: a round in lock-step averages exactly, at n - 1 messages per learner."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class Complete(Topology):
    """Everyone exchanges with everyone."""

    symmetric = True

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return everyone else."""
        return (*range(rank), *range(rank + 1, self.size))

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return everyone else."""
        return self.out_peers(rank, round_)
