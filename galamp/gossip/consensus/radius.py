"""Radius of the epsilon-ball in theory: for synchronous learners, per unit of update length.

For X_{k+1} = P_k (X_k + U_k) with doubly stochastic P_k and D_k = X_k minus its mean,

    ||D_k||_F  <=  L (b_1 + b_2 + ...),   ||U_k centred||_F <= L,

where b_j is the largest norm of j averaging rounds in a row, on the space orthogonal to consensus.
A graph that does not change has b_j <= beta^j, with beta the second largest singular value of P. So
the radius is beta L / (1 - beta) just after an averaging round; before it, when vectors are
published and measured, the last updates add L. The same holds for root mean squares over learners.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galamp.gossip.topologies.base import Topology

MAX_LEARNERS = 256
MAX_PERIOD = 16
MAX_ROUNDS = 1000
NEGLIGIBLE = 1e-12


def mixing_matrix(topology: Topology, round_: int) -> npt.NDArray[np.float64]:
    """Return the mixing matrix P [n, n] of a round: row i holds the weights of learner i."""
    matrix = np.zeros((topology.size, topology.size))
    for rank in range(topology.size):
        members = [rank, *topology.in_peers(rank, round_)]
        matrix[rank, members] = topology.weights(rank, round_)
    return matrix


def radius_per_update(topology: Topology) -> float | None:
    """Return the radius for L = 1; None where this theory gives none.

    It gives none if the graph is not doubly stochastic, has no period, does not reach consensus, or
    has more than `MAX_LEARNERS` learners or a period above `MAX_PERIOD`.
    """
    period = topology.period()
    small = topology.size <= MAX_LEARNERS and period is not None and period <= MAX_PERIOD
    if period is None or not small or not topology.doubly_stochastic:
        return None
    apart = [mixing_matrix(topology, k) - 1.0 / topology.size for k in range(period)]
    if period == 1:
        beta = float(np.linalg.norm(apart[0], 2))
        return beta / (1.0 - beta) if beta < 1.0 - NEGLIGIBLE else None
    total, products = 0.0, [np.eye(topology.size)] * period
    for j in range(MAX_ROUNDS):
        products = [apart[(k + j) % period] @ products[k] for k in range(period)]
        greatest = max(float(np.linalg.norm(product, 2)) for product in products)
        total += greatest
        if greatest < NEGLIGIBLE:
            return total
    return None
