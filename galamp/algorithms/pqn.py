"""Parallelised Q-network (Gallici et al. 2024): Q-learning without a replay buffer or target net.

Runs in learners. The network's outputs for the policy are action values; its value head is unused.

    act: epsilon-greedy --Rollout [T, B]--> Q(lambda) returns --epochs x minibatches--> RAdam

Layer normalisation in the network keeps it stable (`--network nature-layernorm`). It has no running
statistics, so that networks can be averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from galamp.algorithms.actor_critic import ActorCriticAlgorithm, explained_variance
from galamp.algorithms.adam import FlatAdam
from galamp.algorithms.base import Acted, Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.forward import Place
from galamp.algorithms.minibatches import mean_weights, minibatches
from galamp.algorithms.pqn_config import PQNConfig
from galamp.algorithms.returns import lambda_returns
from galamp.core.algorithm_config import AlgorithmConfig


class PQN(ActorCriticAlgorithm):
    """PQN with RAdam on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = PQNConfig

    def __init__(
        self,
        config: PQNConfig,
        model: nn.Module,
        *,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, device=device, seed=seed)
        self._settings = config
        self._optimiser = FlatAdam(self.parameters, eps=config.adam_eps, rectified=True)
        self._epsilon = torch.full((), config.start_e, device=device)

    @property
    def reductions(self) -> int:
        """Number of times that `update` calls `reduce`."""
        return self._settings.update_epochs * self._settings.num_minibatches

    def schedule(self, agent_steps: int, total_steps: int) -> None:
        """Set epsilon and the step size; see `Algorithm.schedule`."""
        super().schedule(agent_steps, total_steps)
        known = self._settings
        share = self.progress / known.exploration_fraction if known.exploration_fraction else 1.0
        self._epsilon.fill_(known.start_e + (known.end_e - known.start_e) * min(share, 1.0))

    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        """Return the best actions [B] int64, or random ones; see `Algorithm.act`."""
        with torch.inference_mode():
            q_values = self._forward.act(observations, place)
            return Acted(epsilon_greedy(q_values, self._epsilon, self.generator), None)

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record nothing: minibatches are drawn anew, and their kernels launched, each time."""

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step for every minibatch of every epoch; see `Algorithm.update`."""
        rollout = trainable(rollout)
        returns, taken = self._targets(rollout)
        valid = rollout.valid.flatten()
        explained = explained_variance(returns, taken, mean_weights(valid))
        observations = rollout.observations[:-1].flatten(0, 1)
        actions = rollout.actions.flatten()
        losses, norms = [], []
        is_mean = False
        for _ in range(self._settings.update_epochs):
            for indices in minibatches(len(valid), self._settings.num_minibatches, self.generator):
                weights = mean_weights(valid[indices])
                q_values = self._forward.outputs(observations[indices].unsqueeze(0)).logits[0]
                chosen = q_values.gather(-1, actions[indices].unsqueeze(-1)).squeeze(-1)
                loss = (weights * (chosen - returns[indices]).square()).sum()
                self._forward.backward(loss)
                is_mean = reduce is not None and reduce()
                norms.append(self._step(valid[indices].any() | is_mean))
                losses.append(loss.detach())
        # The only point where the host waits for the device.
        *numbers, transitions = torch.stack(
            (
                torch.stack(losses).mean(),
                (mean_weights(valid) * taken).sum(),
                self._epsilon,
                torch.stack(norms).max(),
                explained,
                valid.sum(),
            )
        ).tolist()
        self.version += transitions > 0 or is_mean
        return dict(zip(PQNConfig.gauges, numbers, strict=True))

    def _targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return the returns and the present values of the actions taken, [T B] each."""
        steps, envs = rollout.rewards.shape
        q_values = self._evaluate(rollout.observations.flatten(0, 1))[0]
        returns = lambda_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            q_values.max(-1).values.view(steps + 1, envs),
            self._config.gamma,
            self._settings.q_lambda,
        )
        taken = q_values[: steps * envs].gather(-1, rollout.actions.flatten().unsqueeze(-1))
        return returns.flatten(), taken.squeeze(-1)

    def _step(self, active: Tensor) -> Tensor:
        """Take one step along the gradient; return its norm before clipping."""
        known = self._settings
        norm = self._optimiser.step(active, known.max_grad_norm, self._step_size(known.anneal_lr))
        self._forward.discard()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the parameters [P] and RAdam's moments [P] and steps [1], live."""
        return {"parameters": self.parameters.data, **self._optimiser.state()}


def epsilon_greedy(q_values: Tensor, epsilon: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each row of q_values [B, A] the best action, or with `epsilon` [] any, [B]."""
    count, actions = q_values.shape
    device = q_values.device
    any_action = torch.randint(actions, (count,), generator=generator, device=device)
    explores = torch.rand(count, generator=generator, device=device) < epsilon
    return torch.where(explores, any_action, q_values.argmax(-1))
