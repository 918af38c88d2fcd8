"""Parameter slots: published vectors in shared memory, with norms and checksums of vectors.

learner r --write--> ParameterSlots r --begin_read, copy, unchanged?--> peers, supervisor
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
    """Return the shared arrays of all learners' slots (`size` numbers each) and all mailboxes."""
    specs = [Mailbox.spec(*edge, name) for edge in topology.edges()]
    for rank in range(topology.size):
        specs.append(header_spec(f"{name}{rank}.header"))
        specs.append(ArraySpec(f"{name}{rank}", (NUM_SLOTS, size), "float32", math.nan, near=rank))
    return specs


def norm_of(vector: Tensor) -> float:
    """Return the L2 norm of a flat float32 vector, with a relative error of about 1e-6."""
    return float(length_of(vector))


def length_of(vector: Tensor) -> Tensor:
    """Return the L2 norm, [] float64, on the vector's device.

    Computed in blocks: summed in float32 as a whole, the norm of a network is off by a thousandth.
    """
    whole = vector.numel() // NORM_BLOCK * NORM_BLOCK
    blocks = torch.linalg.vector_norm(vector[:whole].view(-1, NORM_BLOCK), dim=1)
    rest = torch.linalg.vector_norm(vector[whole:])
    length: Tensor = torch.linalg.vector_norm(torch.cat((blocks, rest.view(1))).double())
    return length


def checksum_of(vectors: Iterable[Tensor]) -> int:
    """Return the 64-bit checksum of flat float32 vectors: the sum of their bits as int32.

    It does not depend on how the numbers are split into vectors.
    """
    return sum(int(vector.view(torch.int32).sum(dtype=torch.int64)) for vector in vectors)


class ParameterSlots(VersionedSlots):
    """Published vectors of a learner: `payload` [SLOTS, size] float32, parameters first."""

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
