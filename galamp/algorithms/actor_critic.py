"""What the algorithms with a policy and a value function have in common: how they act.

    observations [B, ...] -> act -> actions [B] and, where asked for, their log-probabilities

Runs in learners. A subclass adds the update.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from galamp.algorithms.base import Acted, Algorithm
from galamp.algorithms.cached_outputs import CachedOutputsForward
from galamp.algorithms.distributions import make_distribution
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import ForwardPass, Place, RecomputedForward
from galamp.algorithms.networks.recurrent import RecurrentActorCritic
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.core.algorithm_config import lr_factor

if TYPE_CHECKING:
    from galamp.core.action_spec import ActionSpec
    from galamp.core.algorithm_config import AlgorithmConfig

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
MIN_VARIANCE = 1e-8
"""Variance of the returns below which the explained variance is not defined, and 0 is returned."""


class ActorCriticAlgorithm(Algorithm):
    """Algorithm with a policy and a value function, and whatever optimiser the subclass adds.

    Attributes:
        learns_at_once: whether an update takes the rollout as one batch, which acting can cache.
        progress: share of the run that is over, by the agent steps of all learners.
    """

    learns_at_once: bool = True

    def __init__(
        self,
        config: AlgorithmConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        self._config = config
        self._model = model
        self.parameters = FlatParameters(model, device)
        self._forward: ForwardPass = RecomputedForward(
            model, self.parameters, PRECISIONS[config.precision]
        )
        self.generator = torch.Generator(device).manual_seed(seed)
        self.version = 0
        self.progress = 0.0
        assert config.learning_rate is not None
        self.learning_rate = config.learning_rate
        self.distribution = make_distribution(actions, device)

    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]; cache what acting computes if possible."""
        precision = PRECISIONS[self._config.precision]
        if isinstance(self._model, RecurrentActorCritic):
            self._forward = RecurrentForward(self._model, self.parameters, envs, precision)
            return
        if self.parameters.data.device.type != "cpu":
            return
        module, _, name = getattr(self._model, "cached_forward", "").partition(":")
        if self.learns_at_once and module:
            build = getattr(importlib.import_module(module), name)
            self._forward = build(self._model, steps, envs, precision)
        elif not self.learns_at_once and getattr(self._model, "takes_bytes", False):
            self._forward = CachedOutputsForward(
                self._model, self.parameters, steps, envs, precision
            )

    @property
    def memory(self) -> Tensor | None:
        """See `Algorithm.memory`."""
        return self._forward.memory

    def remember(self, memory: Tensor) -> None:
        """See `Algorithm.remember`."""
        self._forward.start_from(memory)

    def discard(self) -> None:
        """See `Algorithm.discard`."""
        self._forward.discard()
        self._forward.next_rollout()

    def follow(self, learner: Algorithm) -> None:
        """See `Algorithm.follow`."""
        super().follow(learner)
        self._forward.discard()

    def schedule(self, agent_steps: int, total_steps: int) -> None:
        """See `Algorithm.schedule`."""
        self.progress = min(agent_steps / total_steps, 1.0)
        assert self._config.learning_rate is not None
        factor = lr_factor(getattr(self._config, "lr_schedule", "constant"), self.progress)
        self.learning_rate = self._config.learning_rate * factor

    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        """Return sampled actions; see `Algorithm.act`."""
        with torch.inference_mode():
            outputs = self._forward.act(observations, first, place)
            actions = self.distribution.sample(outputs, self.generator)
            kept = self.distribution.log_prob(outputs, actions) if self.keeps_log_probs else None
            return Acted(actions, kept)


def explained_variance(returns: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - Var(R - V) / Var(R), weighted, as []; 0 if the returns do not vary."""
    variance = _variance(returns, weights)
    unexplained = _variance(returns - values, weights)
    explained = 1.0 - unexplained / variance.clamp(min=MIN_VARIANCE)
    return explained.masked_fill(variance <= MIN_VARIANCE, 0.0)


def _variance(x: Tensor, weights: Tensor) -> Tensor:
    return (weights * (x - (weights * x).sum()).square()).sum()
