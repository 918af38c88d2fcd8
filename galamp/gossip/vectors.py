"""Norms and checksums of flat vectors that are published. Runs in learners."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NORM_BLOCK = 1024


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
