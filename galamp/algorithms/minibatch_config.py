"""Settings of the algorithms that learn from minibatches, several times from each.

Read while the command line is parsed, so no torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.algorithm_config import AlgorithmConfig, lr_schedule_option, max_grad_norm_option
from galamp.core.settings import option


@dataclass(frozen=True)
class MinibatchConfig(AlgorithmConfig):
    """Epochs, minibatches and Adam."""

    learning_rate: float | None = option(None, "step size (default: 2.5e-4)", low=0.0, high=10.0)
    lr_schedule: str = lr_schedule_option("linear")
    num_steps: int = option(
        128, "rollout length T between two updates", unit="agent steps", low=1, high=4096
    )
    update_epochs: int = option(4, "passes over each rollout", low=1, high=1000)
    num_minibatches: int = option(
        4,
        "minibatches of each pass: of single transitions, or of whole environments where the "
        "network is recurrent; at most as many as there are of these",
        low=1,
        high=4096,
    )
    max_grad_norm: float = max_grad_norm_option(0.5)
    adam_eps: float = option(1e-5, "Adam's term in the denominator", low=0.0, high=1.0)

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return 2.5e-4, whatever the number of learners: Adam's step does not grow with noise."""
        return 2.5e-4
