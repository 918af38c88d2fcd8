"""Parameter slots: published vectors in shared memory.

learner r --write--> ParameterSlots r --begin_read, copy, unchanged?--> peers, supervisor
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.mailbox import Mailbox
from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.versioned_slots import NUM_SLOTS, VersionedSlots, header_spec

COPY_TRIES = 5


def gossip_specs(topology: Topology, size: int, name: str = "parameters") -> list[ArraySpec]:
    """Return the shared arrays of all learners' slots (`size` numbers each) and all mailboxes."""
    specs = [Mailbox.spec(*edge, name) for edge in topology.edges()]
    for rank in range(topology.size):
        specs.append(header_spec(f"{name}{rank}.header"))
        specs.append(ArraySpec(f"{name}{rank}", (NUM_SLOTS, size), "float32", math.nan, near=rank))
    return specs


class ParameterSlots(VersionedSlots):
    """Published vectors of a learner: `payload` [NUM_SLOTS, size] float32, parameters first."""

    def __init__(self, arrays: SharedArrays, rank: int, name: str = "parameters") -> None:
        super().__init__(arrays, f"{name}{rank}.header")
        self.payload = torch.from_numpy(arrays[f"{name}{rank}"])

    def copy(self, size: int) -> Tensor | None:
        """Return the first `size` numbers of the newest vector; None if none is complete."""
        copy = torch.empty(size)
        for _ in range(COPY_TRIES):
            if self.read(lambda slot: copy.copy_(self.payload[slot, :size])) is not None:
                return copy
        return None
