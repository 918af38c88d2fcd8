"""The star: a hub that exchanges with everyone."""

from __future__ import annotations

from galamp.gossip.topologies.base import Topology


class Star(Topology):
    """Learner 0 exchanges with everyone, the others only with it.

    From three learners on, uniform weights favour the hub (they are not doubly stochastic), so
    `make_topology` gives it Metropolis weights unless told otherwise.
    """

    symmetric = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.doubly_stochastic = size <= 2

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return everyone else for the hub, the hub for everyone else."""
        return tuple(range(1, self.size)) if rank == 0 else (0,)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return everyone else for the hub, the hub for everyone else."""
        return self.out_peers(rank, round_)
