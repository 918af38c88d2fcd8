"""Star: one learner, the hub, exchanges with all others."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class Star(Topology):
    """Learner 0, the hub, exchanges with all others; the others exchange only with the hub.

    With three or more learners, uniform weights favour the hub (they are not doubly stochastic), so
    `make_topology` uses Metropolis weights by default.
    """

    symmetric = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.doubly_stochastic = size <= 2

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return all others for the hub, and the hub for all others."""
        return tuple(range(1, self.size)) if rank == 0 else (0,)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return all others for the hub, and the hub for all others."""
        return self.out_peers(rank, round_)
