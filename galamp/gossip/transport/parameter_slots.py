"""Published vectors in shared memory: where they lie, and how long they are.

learner --write--> ParameterSlots r --look, copy, unchanged?--> peers, supervisor
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.mailbox import Mailbox
from galamp.memory.arrays import ArraySpec, SharedArrays
from galamp.memory.versioned_slots import NUM_SLOTS, VersionedSlots, header_spec

NORM_BLOCK = 1024
COPY_TRIES = 5


def gossip_specs(topology: Topology, size: int, name: str = "parameters") -> list[ArraySpec]:
    """Return the shared arrays of all learners' slots, `size` numbers each, and of mailboxes."""
    specs = [Mailbox.spec(*edge, name) for edge in topology.edges()]
    for rank in range(topology.size):
        specs.append(header_spec(f"{name}{rank}.header"))
        specs.append(ArraySpec(f"{name}{rank}", (NUM_SLOTS, size), "float32", math.nan, near=rank))
    return specs


def norm_of(vector: Tensor) -> float:
    """Return the L2 norm of a flat float32 vector to about 1e-6 of it."""
    return float(length_of(vector))


def length_of(vector: Tensor) -> Tensor:
    """Return the same, [] float64, where the vector lies.

    In blocks: a norm that is summed up in float32 as a whole is off by a thousandth for a network.
    """
    whole = vector.numel() // NORM_BLOCK * NORM_BLOCK
    blocks = torch.linalg.vector_norm(vector[:whole].view(-1, NORM_BLOCK), dim=1)
    rest = torch.linalg.vector_norm(vector[whole:])
    length: Tensor = torch.linalg.vector_norm(torch.cat((blocks, rest.view(1))).double())
    return length


def checksum_of(vectors: Iterable[Tensor]) -> int:
    """Return the 64-bit sum of the bits of flat float32 vectors, however they are split up."""
    return sum(int(vector.view(torch.int32).sum(dtype=torch.int64)) for vector in vectors)


class ParameterSlots(VersionedSlots):
    """A learner's published vectors: `payload` [SLOTS, size] float32, parameters first."""

    def __init__(self, arrays: SharedArrays, rank: int, name: str = "parameters") -> None:
        super().__init__(arrays, f"{name}{rank}.header")
        self.payload = torch.from_numpy(arrays[f"{name}{rank}"])

    def copy(self, size: int) -> Tensor | None:
        """Return the first `size` numbers of the newest vector; None if none is whole."""
        copy = torch.empty(size)
        for _ in range(COPY_TRIES):
            if self.read(lambda slot: copy.copy_(self.payload[slot, :size])) is not None:
                return copy
        return None
