"""What PPO brings besides its code: its settings, its metrics and its default learning rate.

Read while the command line is parsed, so no torch here; the algorithm itself is `ppo.PPO`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.settings import option


@dataclass(frozen=True)
class PPOConfig(AlgorithmConfig):
    """PPO with the settings of OpenAI Baselines and CleanRL for Atari (Huang et al. 2022)."""

    gauges: ClassVar[Mapping[str, str]] = {
        "policy_loss": "mean clipped surrogate loss over all minibatches",
        "value_loss": "mean value loss over all minibatches, in score^2",
        "entropy": "mean entropy of the policy, in nats",
        "grad_norm": "largest L2 norm of a minibatch's gradient before clipping",
        "explained_variance": "share of the returns' variance that the values explain",
        "approx_kl": "mean KL divergence from the policy that acted, in the last epoch, in nats",
        "clip_fraction": "share of ratios that are clipped",
        "mix_kl": "mean KL divergence of the policy before the last gossip round from that after "
        "it, on the last observations, in nats",
    }

    learning_rate: float | None = option(None, "step size (default: 2.5e-4)", low=0.0, high=10.0)
    anneal_lr: bool = option(
        True, "the step size falls linearly to zero with the agent steps of all learners"
    )
    num_steps: int = option(
        128, "rollout length T between two updates", unit="agent steps", low=1, high=4096
    )
    gae_lambda: float = option(
        0.95, "lambda of the generalised advantage estimation", low=0.0, high=1.0
    )
    update_epochs: int = option(4, "passes over each rollout", low=1, high=1000)
    num_minibatches: int = option(4, "minibatches of each pass", low=1, high=4096)
    clip_coef: float = option(0.1, "ratios are clipped to 1 - this and 1 + this", low=0.0)
    anneal_clip: bool = option(False, "the bound of the ratios falls linearly as well")
    clip_vloss: bool = option(
        True, "clip the value's change as the ratios are clipped (Stable-Baselines3 does not)"
    )
    vf_loss: str = option(
        "half",
        "value loss: half the squared error (half: CleanRL, OpenAI Baselines) or all of it (full: "
        "Stable-Baselines3)",
        names=("half", "full"),
    )
    norm_adv: bool = option(True, "normalise the advantages of each minibatch")
    target_kl: float | None = option(
        None,
        "end an update after the epoch in which approx_kl is above this (default: never)",
        unit="nats",
        low=0.0,
        none="never",
    )
    ent_coef: float = option(0.01, "weight of the entropy bonus", low=0.0, high=100.0)
    vf_coef: float = option(0.5, "weight of the value loss", low=0.0, high=100.0)
    max_grad_norm: float = option(0.5, "gradients are clipped to this L2 norm", low=0.0)
    adam_eps: float = option(1e-5, "Adam's term in the denominator", low=0.0, high=1.0)

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return 2.5e-4, whatever the number of learners: Adam's step does not grow with noise."""
        return 2.5e-4
