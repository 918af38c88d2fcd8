"""Advantage actor-critic (Mnih et al. 2016), synchronous, as GALA runs it (Assran et al. 2019).

Runs in learners. `act` is called at every agent step, `update` once per rollout:

    observations [B, ...] -> act -> actions -> simulators -> Rollout [T, B] -> update -> metrics
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.actor_critic import ActorCriticAlgorithm, explained_variance
from galamp.algorithms.base import Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.distributions import Distribution
from galamp.algorithms.graphed_update import RecordedUpdate
from galamp.algorithms.returns import n_step_returns
from galamp.algorithms.rmsprop import FlatRMSprop
from galamp.core.action_spec import ActionSpec
from galamp.core.algorithm_config import AlgorithmConfig


class Losses(NamedTuple):
    """Means over the valid transitions of a rollout, each []; `total` is minimised."""

    total: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor


class Targets(NamedTuple):
    """What an update makes of a rollout, without gradient.

    Attributes:
        returns: [T, B] targets of the value.
        advantages: [T, B] factors of the policy gradient; None: the returns less the values.
        measures: what is only reported, each [], in the order of `A2C.measures`.
    """

    returns: Tensor
    advantages: Tensor | None = None
    measures: tuple[Tensor, ...] = ()


def a2c_losses(
    outputs: Tensor,
    values: Tensor,
    targets: Targets,
    actions: Tensor,
    weights: Tensor,
    *,
    distribution: Distribution,
    vf_coef: float,
    ent_coef: float,
) -> Losses:
    """Return the losses of A2C: total = policy + vf_coef value - ent_coef entropy.

    The advantages A carry no gradient and are not normalised:

        policy = -mean(A log pi(a)),   value = mean((R - V)^2),   entropy = mean(H(pi))

    Args:
        outputs: [T, B, A] float32, the policy's, with gradient.
        values: [T, B] float32, with gradient.
        targets: the returns R and the advantages A.
        actions: [T, B, ...].
        weights: [T, B] float32, each transition's weight in the means: 1/n, or 0 where invalid.
        distribution: of the actions, given the outputs.
        vf_coef: weight of the value loss.
        ent_coef: weight of the entropy.
    """
    assert outputs.dim() == 3
    assert outputs.shape[:2] == values.shape == targets.returns.shape
    log_taken, entropy = distribution.log_prob_and_mean_entropy(outputs, actions, weights)
    errors = targets.returns - values
    advantages = errors.detach() if targets.advantages is None else targets.advantages
    policy_loss = -(weights * advantages * log_taken).sum()
    value_loss = (weights * errors.square()).sum()
    total = policy_loss + vf_coef * value_loss - ent_coef * entropy
    return Losses(total, policy_loss, value_loss, entropy)


class A2C(ActorCriticAlgorithm):
    """A2C with RMSprop on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = A2CConfig
    measures: ClassVar[tuple[str, ...]] = tuple(A2CConfig.gauges)
    """Metrics that an update computes, in order; a subclass may add others to what it returns."""

    def __init__(
        self,
        config: A2CConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, actions=actions, device=device, seed=seed)
        self._settings = config
        # Steps on GPUs are recorded, with every number that is no tensor.
        recorded = config.lr_schedule != "constant" and self.parameters.data.device.type != "cpu"
        rate = self.learning_rate
        self._optimiser = FlatRMSprop(
            self.parameters,
            learning_rate=self.parameters.data.new_full((), rate) if recorded else rate,
            alpha=config.rmsprop_alpha,
            eps=config.rmsprop_eps,
            initial=config.rmsprop_initial,
            form=config.rmsprop_form,
        )
        self._recorded: RecordedUpdate | None = None
        self._parts: tuple[Tensor, ...] = ()

    @property
    def reductions(self) -> int:
        """Number of times that `update` calls `reduce`."""
        return max(1, len(self._parts))

    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]; see `Algorithm.prepare`."""
        parts = min(self._settings.updates_per_rollout, envs)
        self.learns_at_once = parts == 1
        super().prepare(steps, envs)
        everyone = torch.arange(envs, device=self.parameters.data.device)
        self._parts = () if parts == 1 else everyone.tensor_split(parts)

    def schedule(self, agent_steps: int, total_steps: int) -> None:
        """Set the learning rate, also of steps that are recorded; see `Algorithm.schedule`."""
        super().schedule(agent_steps, total_steps)
        if isinstance(self._optimiser.learning_rate, Tensor):
            self._optimiser.learning_rate.fill_(self.learning_rate)
        else:
            self._optimiser.learning_rate = self.learning_rate

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record the update, unless it is of several steps; see `Algorithm.record`."""
        if self._parts:
            return
        learned = {name: tensor.clone() for name, tensor in self.state().items()}
        try:
            self._recorded = RecordedUpdate(
                graphs,
                rollout,
                partial(self._compute_gradient, rollout),
                self._step,
                findings=len(self.measures),
                numbers=len(self.measures) + 1,
                reduces=reduces,
            )
        finally:
            for name, tensor in self.state().items():
                tensor.copy_(learned[name])

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step, or `updates_per_rollout`; see `Algorithm.update`."""
        if self._parts:
            return self._update_in_parts(rollout, reduce)
        if self._recorded is not None and rollout is self._recorded.rollout:
            *numbers, transitions = self._recorded(reduce)
            is_mean = self._recorded.reduces is True
        else:
            findings = self._compute_gradient(rollout)
            is_mean = reduce is not None and reduce()
            # The only point where the host waits for the device.
            *numbers, transitions = self._step(findings, is_mean).tolist()
        self.version += transitions > 0 or is_mean
        return dict(zip(self.measures, numbers, strict=True))

    def _update_in_parts(
        self, rollout: Rollout, reduce: Callable[[], bool] | None
    ) -> dict[str, float]:
        """Take a step for one part of the environments after the other; returns mean metrics."""
        rows, is_mean = [], False
        for envs in self._parts:
            findings = self._compute_gradient(rollout.of(envs), envs)
            is_mean = reduce is not None and reduce()
            rows.append(self._step_along(findings, is_mean))
            self.heartbeat()
        self._forward.next_rollout()
        found = torch.stack(rows)
        counts = found[:, -1]
        weights = counts / counts.sum().clamp(min=1)
        # The only point where the host waits for the device.
        *numbers, transitions = torch.cat((weights @ found[:, :-1], counts.sum()[None])).tolist()
        self.version += transitions > 0 or is_mean
        return dict(zip(self.measures, numbers, strict=True))

    def _compute_gradient(self, rollout: Rollout, envs: Tensor | None = None) -> Sequence[Tensor]:
        """Compute the gradient of the loss on `rollout`, which is of all environments or of `envs`.

        Returns:
            all metrics but the gradient's norm, in order, and the number of valid transitions.
        """
        rollout = trainable(rollout)
        if envs is None:
            outputs, values, bootstrap = self._forward.rollout(rollout.observations, rollout.first)
        else:
            every, of_every = self._forward.outputs(rollout.observations, rollout.first, envs)
            outputs, values, bootstrap = every[:-1], of_every[:-1], of_every[-1].detach()
        count = rollout.valid.sum()
        weights = rollout.valid / count.clamp(min=1)
        known_values = torch.cat((values.detach(), bootstrap.unsqueeze(0)))
        targets = self._targets(rollout, outputs.detach(), known_values, weights)
        losses = a2c_losses(
            outputs,
            values,
            targets,
            rollout.actions,
            weights,
            distribution=self.distribution,
            vf_coef=self._settings.vf_coef,
            ent_coef=self._settings.ent_coef,
        )
        self._forward.backward(losses.total)
        return (
            losses.policy_loss.detach(),
            losses.value_loss.detach(),
            losses.entropy.detach(),
            explained_variance(targets.returns, values.detach(), weights),
            *targets.measures,
            count,
        )

    def _step(self, findings: Sequence[Tensor], is_mean: bool) -> Tensor:
        """Take the only step on a rollout; see `_step_along`."""
        numbers = self._step_along(findings, is_mean)
        self._forward.next_rollout()
        return numbers

    def _step_along(self, findings: Sequence[Tensor], is_mean: bool) -> Tensor:
        """Take the step, if there are valid transitions; return all metrics and their number."""
        policy_loss, value_loss, entropy, *others, transitions = findings
        active = transitions >= (0 if is_mean else 1)
        norm = self._optimiser.step(active, self._settings.max_grad_norm)
        self._forward.discard()
        return torch.stack((policy_loss, value_loss, entropy, norm, *others, transitions))

    def _targets(
        self, rollout: Rollout, outputs: Tensor, values: Tensor, weights: Tensor
    ) -> Targets:
        """Return the targets of a rollout, from outputs [T, B, A] and values [T+1, B]."""
        del outputs, weights  # the actions are the present policy's own
        returns = n_step_returns(
            rollout.rewards, rollout.terminated, rollout.truncated, values, self._config.gamma
        )
        return Targets(returns)

    def state(self) -> dict[str, Tensor]:
        """Return the parameters [P] and RMSprop's square averages [P], live."""
        return {
            "parameters": self.parameters.data,
            "square_average": self._optimiser.square_average,
        }
