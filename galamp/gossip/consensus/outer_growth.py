"""Growth of the disagreement under outer steps, in lock-step and without updates.

With G_k = I - P_k, all learners' vectors A [n, P] and velocities V, a round of outer steps is

    V' = momentum V + G_k A,   A' = A - lr (G_k A + momentum V')

(`galamp.gossip.outer_step`). G_k takes consensus to 0, so disagreement follows the same rule in the
n - 1 directions besides. It dies out if the spectral radius of a period's rounds is below 1. For
the directed ring, whose mixing matrix has complex eigenvalues, a momentum of 0.9 is too much from
four learners on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galamp.gossip.consensus.radius import mixing_matrix
from galamp.gossip.topologies.base import Topology

MAX_LEARNERS = 256
MAX_WORK = 4e9
"""Rounds of a period times n^3: a second or two."""


def growth_per_round(topology: Topology, momentum: float, lr: float) -> float | None:
    """Return the factor by which the disagreement grows per round, in the long run.

    None where it is not known: for random graphs, and those that are too large or repeat too late.
    """
    period, size = topology.period(), topology.size
    if period is None or size > MAX_LEARNERS or period * size**3 > MAX_WORK:
        return None
    if size == 1:
        return 0.0
    directions = _besides_consensus(size)
    product = np.eye(2 * (size - 1))
    for k in range(period):
        apart = np.eye(size - 1) - directions.T @ mixing_matrix(topology, k) @ directions
        product = _round(apart, momentum, lr) @ product
    return float(np.abs(np.linalg.eigvals(product)).max() ** (1.0 / period))


def _round(apart: npt.NDArray[np.float64], momentum: float, lr: float) -> npt.NDArray[np.float64]:
    """Return the matrix that takes (A, V) to (A', V')."""
    one = np.eye(len(apart))
    return np.block(
        [[one - lr * (1.0 + momentum) * apart, -lr * momentum**2 * one], [apart, momentum * one]]
    )


def _besides_consensus(size: int) -> npt.NDArray[np.float64]:
    """Return an orthonormal basis [n, n - 1] of the vectors whose sum is 0."""
    basis, _ = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, 1:]]))
    return np.asarray(basis[:, 1:])
