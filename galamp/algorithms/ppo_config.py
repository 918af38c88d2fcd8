"""What PPO brings besides its code: its settings beyond those of minibatches, and its metrics.

Read while the command line is parsed, so no torch here; the algorithm itself is `ppo.PPO`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.algorithms.minibatch_config import MinibatchConfig
from galamp.core.algorithm_config import algorithm_option
from galamp.core.settings import option


@dataclass(frozen=True)
class PPOConfig(MinibatchConfig):
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
        "state_drift": "mean L2 distance of the states that a rollout starts with, for a "
        "recurrent network, from the same computed by its own parameters",
    }

    algorithm: str = algorithm_option("ppo")

    gae_lambda: float = option(
        0.95, "lambda of the generalised advantage estimation", low=0.0, high=1.0
    )
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

    def misfit(self, method: str) -> str:
        """See `AlgorithmConfig.misfit`."""
        if method == "allreduce" and self.target_kl is not None:
            return "--target-kl: with --method allreduce all learners take equally many steps"
        return ""
