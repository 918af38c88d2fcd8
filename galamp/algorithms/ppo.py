"""Proximal policy optimisation (Schulman et al. 2017): clipped ratios, GAE, minibatches, Adam.

Runs in learners. `act` is called at every agent step, `update` once per rollout:

    Rollout [T, B] --values--> advantages --epochs x minibatches--> one Adam step for each

A gossip round comes between two updates, never within one: the ratio of a rollout's policy to the
one that acted is 1 in the first minibatch. How far a round has moved the policy is `mix_kl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.actor_critic import ActorCriticAlgorithm, explained_variance
from galamp.algorithms.adam import FlatAdam
from galamp.algorithms.base import Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.minibatches import mean_weights, minibatches, standardised
from galamp.algorithms.ppo_config import PPOConfig
from galamp.algorithms.returns import lambda_returns
from galamp.core.algorithm_config import AlgorithmConfig


class Batch(NamedTuple):
    """Transitions of a rollout, [N, ...] each, and what the policy that acted made of them."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    valid: Tensor

    def at(self, indices: Tensor) -> Batch:
        """Return the transitions at `indices` [n]."""
        return Batch(*(part[indices] for part in self))


class Losses(NamedTuple):
    """Means over the valid transitions of a minibatch, each []; `total` is minimised."""

    total: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return PPO's loss of each transition, [N] (Schulman et al. 2017, equation 7, negative).

    Args:
        log_ratios: [N] float32, log pi(a) - log mu(a), with gradient.
        advantages: [N] float32.
        clip: ratios are clipped to 1 - clip and 1 + clip.
    """
    ratios = log_ratios.exp()
    return -torch.min(ratios * advantages, ratios.clamp(1.0 - clip, 1.0 + clip) * advantages)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Return the squared error of each value, [N]; with `clip`, the larger of two.

    The other one is that of the value whose change since `old_values` is clipped to +- `clip`, as
    in OpenAI Baselines.
    """
    errors = (values - returns).square()
    if clip is None:
        return errors
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.max(errors, (near - returns).square())


class PPO(ActorCriticAlgorithm):
    """PPO with Adam on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = PPOConfig

    def __init__(
        self,
        config: PPOConfig,
        model: nn.Module,
        *,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, device=device, seed=seed)
        self._settings = config
        self._optimiser = FlatAdam(self.parameters, eps=config.adam_eps)
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def reductions(self) -> int:
        """Number of times that `update` calls `reduce`."""
        return self._settings.update_epochs * self._settings.num_minibatches

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record nothing: minibatches are drawn anew, and their kernels launched, each time."""

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step for every minibatch of every epoch; see `Algorithm.update`."""
        rollout = trainable(rollout)
        observations = rollout.observations[-1].clone()
        mix_kl = self._mix_kl()
        batch = self._evaluated(rollout)
        explained = explained_variance(batch.returns, batch.values, mean_weights(batch.valid))
        found: list[Tensor] = []
        norms: list[Tensor] = []
        is_mean = False
        for _ in range(self._settings.update_epochs):
            before = len(found)
            for part in self._minibatches(batch):
                losses = self._losses(part)
                self._forward.backward(losses.total)
                is_mean = reduce is not None and reduce()
                norms.append(self._step(part.valid.any() | is_mean))
                found.append(torch.stack(losses).detach())
            if reduce is None and self._is_far(found[before:]):
                break
        self._last = observations, self._evaluate(observations)[0]
        losses = Losses(*torch.stack(found).mean(0))
        last_kl = torch.stack(found[before:]).mean(0)
        # The only point where the host waits for the device, but for a bound of the divergence.
        *numbers, transitions = torch.stack(
            (
                losses.policy_loss,
                losses.value_loss,
                losses.entropy,
                torch.stack(norms).max(),
                explained,
                Losses(*last_kl).approx_kl,
                losses.clip_fraction,
                mix_kl,
                batch.valid.sum(),
            )
        ).tolist()
        self.version += transitions > 0 or is_mean
        return dict(zip(PPOConfig.gauges, numbers, strict=True))

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        for indices in minibatches(
            len(batch.valid), self._settings.num_minibatches, self.generator
        ):
            yield batch.at(indices)

    def _evaluated(self, rollout: Rollout) -> Batch:
        """Return the transitions of the rollout with what the present policy makes of them."""
        steps, envs = rollout.rewards.shape
        outputs, values = self._evaluate(rollout.observations.flatten(0, 1))
        values = values.view(steps + 1, envs)
        returns = lambda_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            values,
            self._config.gamma,
            self._settings.gae_lambda,
        )
        actions = rollout.actions.flatten(0, 1)
        return Batch(
            observations=rollout.observations[:-1].flatten(0, 1),
            actions=actions,
            log_probs=self.distribution.log_prob(outputs[: steps * envs], actions),
            values=values[:-1].flatten(),
            advantages=(returns - values[:-1]).flatten(),
            returns=returns.flatten(),
            valid=rollout.valid.flatten(),
        )

    def _mix_kl(self) -> Tensor:
        """Return the mean KL divergence since the last update, [], on its last observations."""
        if self._last is None:
            return self.parameters.data.new_zeros(())
        observations, outputs = self._last
        return self.distribution.kl(outputs, self._evaluate(observations)[0]).mean()

    def _is_far(self, losses: list[Tensor]) -> bool:
        """Whether the policy has gone too far in an epoch with these losses."""
        if self._settings.target_kl is None:
            return False
        mean = Losses(*torch.stack(losses).mean(0))
        return bool(mean.approx_kl > self._settings.target_kl)

    def _losses(self, batch: Batch) -> Losses:
        known = self._settings
        bound = known.clip_coef * (1.0 - self.progress if known.anneal_clip else 1.0)
        weights = mean_weights(batch.valid)
        outputs, values = self._forward.outputs(batch.observations.unsqueeze(0))
        outputs, values = outputs.squeeze(0), values.squeeze(0)
        log_ratios = self.distribution.log_prob(outputs, batch.actions) - batch.log_probs
        log_ratios = log_ratios.masked_fill(~batch.valid, 0.0)
        advantages = batch.advantages
        if known.norm_adv:
            advantages = standardised(advantages, weights)
        policy_loss = (weights * clipped_surrogate(log_ratios, advantages, bound)).sum()
        value_bound = bound if known.clip_vloss else None
        errors = value_losses(values, batch.values, batch.returns, value_bound)
        value_loss = (weights * errors).sum() * (0.5 if known.vf_loss == "half" else 1.0)
        entropy = (weights * self.distribution.entropy(outputs)).sum()
        total = policy_loss + known.vf_coef * value_loss - known.ent_coef * entropy
        with torch.no_grad():
            ratios = log_ratios.exp()
            # Schulman 2020, "Approximating KL divergence", the third estimator: never negative.
            approx_kl = (weights * (ratios - 1.0 - log_ratios)).sum()
            clip_fraction = (weights * ((ratios - 1.0).abs() > bound)).sum()
        return Losses(total, policy_loss, value_loss, entropy, approx_kl, clip_fraction)

    def _step(self, active: Tensor) -> Tensor:
        """Take one step along the gradient; return its norm before clipping."""
        known = self._settings
        norm = self._optimiser.step(active, known.max_grad_norm, self._step_size(known.anneal_lr))
        self._forward.discard()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the parameters [P] and Adam's moments [P] and steps [1], live."""
        return {"parameters": self.parameters.data, **self._optimiser.state()}
