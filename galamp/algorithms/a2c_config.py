"""What A2C brings besides its code: its settings, its metrics and its default learning rate.

Read while the command line is parsed, so no torch here; the algorithm itself is `a2c.A2C`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.core.algorithm_config import AlgorithmConfig, lr_schedule_option, max_grad_norm_option
from galamp.core.settings import option

BASE_LEARNING_RATE = 7e-4
"""Step size of a single learner; n learners take it times sqrt(n) (published GALA code)."""

MOST_ALPHA = 0.999999
"""Largest RMSprop smoothing constant: by 1 - alpha ** LATE, which 1 makes 0, steps are divided."""


@dataclass(frozen=True)
class A2CConfig(AlgorithmConfig):
    """A2C as the GALA paper runs it (Assran et al. 2019, appendix)."""

    gauges: ClassVar[Mapping[str, str]] = {
        "policy_loss": "mean of -(R - V) log pi(a) over the valid transitions",
        "value_loss": "mean of (R - V)^2, in score^2",
        "entropy": "mean entropy of the policy, in nats",
        "grad_norm": "L2 norm of the gradient before clipping",
        "explained_variance": "share of the returns' variance that the values explain",
    }

    learning_rate: float | None = option(
        None, "step size (default: 7e-4 times the square root of --learners)", low=0.0, high=10.0
    )
    lr_schedule: str = lr_schedule_option("constant")
    updates_per_rollout: int = option(
        1,
        "optimiser steps on each rollout, one after the other, each on its share of the "
        "environments (at most one for each): as many as so many smaller learners would take; all "
        "but the first learn from actions of an older policy",
        low=1,
        high=4096,
    )
    ent_coef: float = option(0.01, "weight of the entropy bonus", low=0.0, high=100.0)
    vf_coef: float = option(0.5, "weight of the value loss", low=0.0, high=100.0)
    max_grad_norm: float = max_grad_norm_option(0.5)
    rmsprop_alpha: float = option(0.99, "RMSprop smoothing constant", low=0.0, high=MOST_ALPHA)
    rmsprop_eps: float = option(
        1e-5,
        "RMSprop term in the denominator; where it stands, see --rmsprop-form",
        low=0.0,
        high=1.0,
    )
    rmsprop_form: str = option(
        "torch",
        "RMSprop divides by sqrt(s) + eps (torch: PyTorch, the published GALA code) or by "
        "sqrt(s + eps) (tf: TensorFlow, OpenAI Baselines, Stable-Baselines3's RMSpropTFLike); "
        "for A2C all of them take alpha 0.99 and eps 1e-5",
        names=("torch", "tf"),
    )
    rmsprop_initial: float = option(
        1.0,
        "mean square s that RMSprop starts from, in both forms: 1 is TensorFlow's; from 0, "
        "PyTorch's and GALA's, the first steps are ten times as large and can leave the network "
        "dead",
        low=0.0,
        high=1e6,
    )

    @classmethod
    def default_learning_rate(cls, learners: int) -> float:
        """Return 7e-4 times the square root of the number of learners."""
        return BASE_LEARNING_RATE * math.sqrt(learners)
