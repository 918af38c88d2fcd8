"""Proximal policy optimisation (Schulman et al. 2017): clipped ratios, GAE, minibatches, Adam.

Runs in learners. `act` is called at every agent step, `update` once per rollout:

    Rollout [T, B] --values--> advantages --epochs x minibatches--> one Adam step for each

A gossip round comes between two updates, never within one: the ratio of a rollout's policy to the
one that acted is 1 in the first minibatch. How far a round has moved the policy is `mix_kl`, and
how far the update and the round have left a recurrent network's states behind is `state_drift`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.actor_critic import explained_variance
from galamp.algorithms.base import Rollout
from galamp.algorithms.forward import Outputs
from galamp.algorithms.minibatch_update import MinibatchAlgorithm, Steps
from galamp.algorithms.minibatches import mean_weights, standardised
from galamp.algorithms.ppo_config import PPOConfig
from galamp.algorithms.recurrent_forward import RecurrentForward
from galamp.algorithms.returns import lambda_returns
from galamp.algorithms.state_drift import StateDrift
from galamp.core.action_spec import ActionSpec
from galamp.core.algorithm_config import AlgorithmConfig


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


class Measured(NamedTuple):
    """Means over the valid transitions of a minibatch, each []."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


class Before(NamedTuple):
    """What the policy makes of a rollout before the first step, [T, B, ...] each."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PPO(MinibatchAlgorithm):
    """PPO with Adam on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = PPOConfig
    measures: ClassVar[tuple[str, ...]] = tuple(PPOConfig.gauges)

    def __init__(
        self,
        config: PPOConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, actions=actions, device=device, seed=seed)
        self._settings = config
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        self._state_drift: StateDrift | None = None
        self._since_last = (self.parameters.data.new_zeros(()),) * 2

    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]; see `Algorithm.prepare`."""
        super().prepare(steps, envs)
        if isinstance(self._forward, RecurrentForward):
            self._state_drift = StateDrift(self._forward)

    def rescale(self, change: Callable[[Tensor], Tensor]) -> None:
        """See `Algorithm.rescale`."""
        if self._last is not None:
            observations, first, outputs = self._last
            self._last = change(observations), first, outputs
        if self._state_drift is not None:
            self._state_drift.rescale(change)

    def _evaluated(self, rollout: Rollout) -> Before:
        """Return what the present policy makes of the rollout."""
        self._since_last = self._divergence_since_last(), self._drift_since_last(rollout)
        outputs, values = self._forward.evaluate(rollout.observations, rollout.first)
        returns = lambda_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            values,
            self._config.gamma,
            self._settings.gae_lambda,
        )
        return Before(
            actions=rollout.actions,
            log_probs=self.distribution.log_prob(outputs[:-1], rollout.actions),
            values=values[:-1],
            advantages=returns - values[:-1],
            returns=returns,
        )

    def _losses(self, outputs: Outputs, valid: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the loss of a minibatch, and `Measured`; see `MinibatchAlgorithm._losses`."""
        known, before = self._settings, Before(*parts)
        bound = known.clip_coef * (1.0 - self.progress if known.anneal_clip else 1.0)
        weights = mean_weights(valid)
        log_ratios = self.distribution.log_prob(outputs.logits, before.actions) - before.log_probs
        log_ratios = log_ratios.masked_fill(~valid, 0.0)
        advantages = before.advantages
        if known.norm_adv:
            advantages = standardised(advantages, weights)
        policy_loss = (weights * clipped_surrogate(log_ratios, advantages, bound)).sum()
        value_bound = bound if known.clip_vloss else None
        errors = value_losses(outputs.values, before.values, before.returns, value_bound)
        value_loss = (weights * errors).sum() * (0.5 if known.vf_loss == "half" else 1.0)
        entropy = (weights * self.distribution.entropy(outputs.logits)).sum()
        total = policy_loss + known.vf_coef * value_loss - known.ent_coef * entropy
        with torch.no_grad():
            ratios = log_ratios.exp()
            # Schulman 2020, "Approximating KL divergence", the third estimator: never negative.
            approx_kl = (weights * (ratios - 1.0 - log_ratios)).sum()
            clip_fraction = (weights * ((ratios - 1.0).abs() > bound)).sum()
        return total, *Measured(policy_loss, value_loss, entropy, approx_kl, clip_fraction)

    def _ends_after(self, measured: Tensor) -> bool:
        """Whether the policy has gone too far; asks the device, if there is a bound."""
        bound = self._settings.target_kl
        return bound is not None and bool(Measured(*measured).approx_kl > bound)

    def _found(self, rollout: Rollout, steps: Steps) -> tuple[Tensor, ...]:
        """Return the metrics; see `MinibatchAlgorithm._found`."""
        before, mean = Before(*steps.once), Measured(*steps.measured.mean(0))
        self._note_policy(rollout)
        return (
            mean.policy_loss,
            mean.value_loss,
            mean.entropy,
            steps.grad_norm,
            explained_variance(before.returns, before.values, mean_weights(rollout.valid)),
            Measured(*steps.measured[-1]).approx_kl,
            mean.clip_fraction,
            *self._since_last,
        )

    def _note_policy(self, rollout: Rollout) -> None:
        """Note the policy on the last observations, which the next rollout begins with."""
        observations, first = rollout.observations[-1:].clone(), rollout.first[-1:].clone()
        outputs = self._forward.evaluate(observations, first).logits
        self._last = observations, first, outputs

    def _divergence_since_last(self) -> Tensor:
        """Return the KL divergence of the policy after the last update from now, []."""
        if self._last is None:
            return self.parameters.data.new_zeros(())
        observations, first, outputs = self._last
        now = self._forward.evaluate(observations, first).logits
        return self.distribution.kl(outputs, now).mean()

    def _drift_since_last(self, rollout: Rollout) -> Tensor:
        """Return how stale the states are that the rollout starts with, []; keep it for the next.

        It is 0 for a feedforward network.
        """
        if self._state_drift is None:
            return self.parameters.data.new_zeros(())
        drift = self._state_drift.measure()
        self._state_drift.keep(rollout)
        return drift
