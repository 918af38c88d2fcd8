"""Parallelised Q-network (Gallici et al. 2024): Q-learning without a replay buffer or target net.

Runs in learners. The network's outputs for the policy are action values; its value head is unused.

    act: epsilon-greedy --Rollout [T, B]--> Q(lambda) returns --epochs x minibatches--> RAdam

Layer normalisation in the network keeps it stable; `--network auto` takes one with it. It has no
running statistics, so that networks can be averaged.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.actor_critic import explained_variance
from galamp.algorithms.base import Acted, Rollout
from galamp.algorithms.forward import Outputs, Place
from galamp.algorithms.minibatch_update import MinibatchAlgorithm, Steps
from galamp.algorithms.minibatches import mean_weights
from galamp.algorithms.pqn_config import PQNConfig
from galamp.algorithms.returns import lambda_returns
from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.core.algorithm_config import AlgorithmConfig
from galamp.core.errors import UserError


class Before(NamedTuple):
    """What the network makes of a rollout before the first step, [T, B] each."""

    actions: Tensor
    returns: Tensor
    taken: Tensor
    """Values of the actions taken."""


class PQN(MinibatchAlgorithm):
    """PQN with RAdam on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = PQNConfig
    measures: ClassVar[tuple[str, ...]] = tuple(PQNConfig.gauges)
    rectified: ClassVar[bool] = True

    def __init__(
        self,
        config: PQNConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`.

        Raises:
            UserError: the actions are not one choice of several.
        """
        if not isinstance(actions, DiscreteActions):
            raise UserError(
                f"--algorithm pqn: expected one choice of several actions, the environment has "
                f"{actions.describe()}; take ppo"
            )
        super().__init__(config, model, actions=actions, device=device, seed=seed)
        self._settings = config
        self._epsilon = torch.full((), config.start_e, device=device)

    def schedule(self, agent_steps: int, total_steps: int) -> None:
        """Set epsilon and the step size; see `Algorithm.schedule`."""
        super().schedule(agent_steps, total_steps)
        known = self._settings
        share = self.progress / known.exploration_fraction if known.exploration_fraction else 1.0
        self._epsilon.fill_(known.start_e + (known.end_e - known.start_e) * min(share, 1.0))

    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        """Return the best actions [B] int64, or random ones; see `Algorithm.act`."""
        with torch.inference_mode():
            q_values = self._forward.act(observations, first, place)
            return Acted(epsilon_greedy(q_values, self._epsilon, self.generator))

    def _evaluated(self, rollout: Rollout) -> Before:
        """Return what the present network makes of the rollout."""
        q_values, _ = self._forward.evaluate(rollout.observations, rollout.first)
        returns = lambda_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            q_values.max(-1).values,
            self._config.gamma,
            self._settings.q_lambda,
        )
        return Before(rollout.actions, returns, _of(q_values[:-1], rollout.actions))

    def _losses(self, outputs: Outputs, valid: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the mean squared error, twice; see `MinibatchAlgorithm._losses`."""
        before = Before(*parts)
        errors = _of(outputs.logits, before.actions) - before.returns
        loss = (mean_weights(valid) * errors.square()).sum()
        return loss, loss

    def _found(self, rollout: Rollout, steps: Steps) -> tuple[Tensor, ...]:
        """Return the metrics; see `MinibatchAlgorithm._found`."""
        before, weights = Before(*steps.once), mean_weights(rollout.valid)
        return (
            steps.measured.mean(),
            (weights * before.taken).sum(),
            self._epsilon,
            steps.grad_norm,
            explained_variance(before.returns, before.taken, weights),
        )


def epsilon_greedy(q_values: Tensor, epsilon: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each row of q_values [B, A] the best action, or with `epsilon` [] any, [B]."""
    count, actions = q_values.shape
    device = q_values.device
    any_action = torch.randint(actions, (count,), generator=generator, device=device)
    explores = torch.rand(count, generator=generator, device=device) < epsilon
    return torch.where(explores, any_action, q_values.argmax(-1))


def _of(q_values: Tensor, actions: Tensor) -> Tensor:
    """Return the values [...] of actions [...] among q_values [..., A]."""
    return q_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
