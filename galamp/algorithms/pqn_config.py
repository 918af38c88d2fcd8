"""What PQN brings besides its code: its settings beyond those of minibatches, and its metrics.

Read while the command line is parsed, so no torch here; the algorithm itself is `pqn.PQN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.algorithms.minibatch_config import MinibatchConfig
from galamp.core.algorithm_config import algorithm_option, max_grad_norm_option
from galamp.core.settings import option

LEAST_EPS = 1e-12
"""Smallest term in the denominator: with 0, weights without a gradient would become 0 / 0."""


@dataclass(frozen=True)
class PQNConfig(MinibatchConfig):
    """PQN (Gallici et al. 2024) with the settings of CleanRL for Atari."""

    gauges: ClassVar[Mapping[str, str]] = {
        "td_loss": "mean squared error of the action values over all minibatches, in score^2",
        "q_value": "mean value of the actions taken",
        "epsilon": "probability of a random action",
        "grad_norm": "largest L2 norm of a minibatch's gradient before clipping",
        "explained_variance": "share of the returns' variance that the action values explain",
    }

    outputs_are_values: ClassVar[bool] = True

    algorithm: str = algorithm_option("pqn")

    q_lambda: float = option(0.65, "lambda of the returns", low=0.0, high=1.0)
    start_e: float = option(1.0, "epsilon at the start", low=0.0, high=1.0)
    end_e: float = option(0.01, "epsilon at the end", low=0.0, high=1.0)
    exploration_fraction: float = option(
        0.1,
        "share of --total-steps, of all learners, over which epsilon falls linearly",
        low=0.0,
        high=1.0,
    )
    max_grad_norm: float = max_grad_norm_option(10.0)
    adam_eps: float = option(1e-8, "RAdam's term in the denominator", low=LEAST_EPS, high=1.0)
