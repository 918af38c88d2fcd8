"""What PQN brings besides its code: its settings, its metrics and its default learning rate.

Read while the command line is parsed, so no torch here; the algorithm itself is `pqn.PQN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.settings import option


@dataclass(frozen=True)
class PQNConfig(AlgorithmConfig):
    """PQN (Gallici et al. 2024) with the settings of CleanRL for Atari."""

    gauges: ClassVar[Mapping[str, str]] = {
        "td_loss": "mean squared error of the action values over all minibatches, in score^2",
        "q_value": "mean value of the actions taken",
        "epsilon": "probability of a random action",
        "grad_norm": "largest L2 norm of a minibatch's gradient before clipping",
        "explained_variance": "share of the returns' variance that the action values explain",
    }

    learning_rate: float | None = option(None, "step size (default: 2.5e-4)", low=0.0, high=10.0)
    anneal_lr: bool = option(
        True, "the step size falls linearly to zero with the agent steps of all learners"
    )
    num_steps: int = option(
        128, "rollout length T between two updates", unit="agent steps", low=1, high=4096
    )
    q_lambda: float = option(0.65, "lambda of the returns", low=0.0, high=1.0)
    update_epochs: int = option(4, "passes over each rollout", low=1, high=1000)
    num_minibatches: int = option(4, "minibatches of each pass", low=1, high=4096)
    start_e: float = option(1.0, "epsilon at the start", low=0.0, high=1.0)
    end_e: float = option(0.01, "epsilon at the end", low=0.0, high=1.0)
    exploration_fraction: float = option(
        0.1,
        "share of --total-steps, of all learners, over which epsilon falls linearly",
        low=0.0,
        high=1.0,
    )
    max_grad_norm: float = option(10.0, "gradients are clipped to this L2 norm", low=0.0)
    adam_eps: float = option(1e-8, "RAdam's term in the denominator", low=0.0, high=1.0)

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return 2.5e-4, whatever the number of learners: RAdam's step does not grow with noise."""
        return 2.5e-4
