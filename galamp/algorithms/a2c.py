"""Advantage actor-critic (Mnih et al. 2016), synchronous, as GALA runs it (Assran et al. 2019).

Runs in learners. `act` is called at every agent step, `update` once per rollout:

    observations [B, ...] -> act -> actions -> simulators -> Rollout [T, B] -> update -> metrics
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Acted, Algorithm, Rollout, trainable
from galamp.algorithms.cuda_graphs import Graphs
from galamp.algorithms.distributions import Distribution, make_distribution
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.forward import ForwardPass, Place, RecomputedForward
from galamp.algorithms.graphed_update import RecordedUpdate
from galamp.algorithms.returns import n_step_returns
from galamp.algorithms.rmsprop import FlatRMSprop
from galamp.core.action_spec import ActionSpec
from galamp.core.algorithm_config import AlgorithmConfig

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
MIN_VARIANCE = 1e-8
"""Variance of the returns below which the explained variance is not defined, and 0 is returned."""
METRICS = tuple(A2CConfig.gauges)
"""Metrics of an update, in order."""


class Losses(NamedTuple):
    """Means over the valid transitions of a rollout, each []; `total` is minimised."""

    total: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor


class Findings(NamedTuple):
    """Results of the first half of an update, each [], without gradient."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    explained_variance: Tensor
    transitions: Tensor


def a2c_losses(
    outputs: Tensor,
    values: Tensor,
    returns: Tensor,
    actions: Tensor,
    weights: Tensor,
    *,
    distribution: Distribution,
    vf_coef: float,
    ent_coef: float,
) -> Losses:
    """Return the losses of A2C: total = policy + vf_coef value - ent_coef entropy.

    The advantages R - V carry no gradient and are not normalised:

        policy = -mean((R - V) log pi(a)),   value = mean((R - V)^2),   entropy = mean(H(pi))

    Args:
        outputs: [T, B, A] float32, the policy's, with gradient.
        values: [T, B] float32, with gradient.
        returns: [T, B] float32.
        actions: [T, B, ...].
        weights: [T, B] float32, each transition's weight in the means: 1/n, or 0 where invalid.
        distribution: of the actions, given the outputs.
        vf_coef: weight of the value loss.
        ent_coef: weight of the entropy.
    """
    assert outputs.dim() == 3
    assert outputs.shape[:2] == values.shape == returns.shape
    log_taken, entropy = distribution.log_prob_and_mean_entropy(outputs, actions, weights)
    errors = returns - values
    policy_loss = -(weights * errors.detach() * log_taken).sum()
    value_loss = (weights * errors.square()).sum()
    total = policy_loss + vf_coef * value_loss - ent_coef * entropy
    return Losses(total, policy_loss, value_loss, entropy)


def explained_variance(returns: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - Var(R - V) / Var(R), weighted, as []; 0 if the returns do not vary."""
    variance = _variance(returns, weights)
    unexplained = _variance(returns - values, weights)
    explained = 1.0 - unexplained / variance.clamp(min=MIN_VARIANCE)
    return explained.masked_fill(variance <= MIN_VARIANCE, 0.0)


def _variance(x: Tensor, weights: Tensor) -> Tensor:
    return (weights * (x - (weights * x).sum()).square()).sum()


class A2C(Algorithm):
    """A2C with RMSprop on flat vectors."""

    config_class: ClassVar[type[AlgorithmConfig]] = A2CConfig

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
        assert config.learning_rate is not None
        self._config = config
        self._model = model
        self._distribution = make_distribution(actions, device)
        self.parameters = FlatParameters(model, device)
        self._optimiser = FlatRMSprop(
            self.parameters,
            learning_rate=config.learning_rate,
            alpha=config.rmsprop_alpha,
            eps=config.rmsprop_eps,
            initial=config.rmsprop_initial,
            form=config.rmsprop_form,
        )
        self._forward: ForwardPass = RecomputedForward(
            model, self.parameters, PRECISIONS[config.precision]
        )
        self._recorded: RecordedUpdate | None = None
        self.generator = torch.Generator(device).manual_seed(seed)
        self.version = 0

    def prepare(self, steps: int, envs: int) -> None:
        """Prepare for rollouts [T, B] = [steps, envs]; cache activations of acting if possible."""
        on_cpu = self.parameters.data.device.type == "cpu"
        module, _, name = getattr(self._model, "cached_forward", "").partition(":")
        if on_cpu and module:
            build = getattr(importlib.import_module(module), name)
            self._forward = build(self._model, steps, envs, PRECISIONS[self._config.precision])

    def act(self, observations: Tensor, first: Tensor, place: Place | None = None) -> Acted:
        """Return sampled actions; see `Algorithm.act`."""
        del first  # the policy has no memory
        with torch.inference_mode():
            outputs = self._forward.act(observations, place)
            actions = self._distribution.sample(outputs, self.generator)
            if not self.keeps_log_probs:
                return Acted(actions)
            return Acted(actions, self._distribution.log_prob(outputs, actions))

    def record(self, rollout: Rollout, graphs: Graphs, reduces: bool | None) -> None:
        """Record the update; see `Algorithm.record`."""
        learned = {name: tensor.clone() for name, tensor in self.state().items()}
        try:
            self._recorded = RecordedUpdate(
                graphs,
                rollout,
                partial(self._compute_gradient, rollout),
                self._step,
                findings=len(Findings._fields),
                numbers=len(METRICS) + 1,
                reduces=reduces,
            )
        finally:
            for name, tensor in self.state().items():
                tensor.copy_(learned[name])

    def update(
        self, rollout: Rollout, reduce: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """Take one optimiser step; see `Algorithm.update`."""
        if self._recorded is not None and rollout is self._recorded.rollout:
            *numbers, transitions = self._recorded(reduce)
            is_mean = self._recorded.reduces is True
        else:
            findings = self._compute_gradient(rollout)
            is_mean = reduce is not None and reduce()
            # The only point where the host waits for the device.
            *numbers, transitions = self._step(findings, is_mean).tolist()
        self.version += transitions > 0 or is_mean
        return dict(zip(METRICS, numbers, strict=True))

    def _compute_gradient(self, rollout: Rollout) -> Findings:
        """Compute the gradient of the loss on `rollout`."""
        rollout = trainable(rollout)
        bootstrap = self._forward.values(rollout.observations[-1])
        outputs, values = self._forward.outputs(rollout.observations[:-1])
        count = rollout.valid.sum()
        weights = rollout.valid / count.clamp(min=1)
        returns = self._returns(rollout, values.detach(), bootstrap)
        losses = self._losses(rollout, outputs, values, returns, weights)
        self._forward.backward(losses.total)
        return Findings(
            losses.policy_loss.detach(),
            losses.value_loss.detach(),
            losses.entropy.detach(),
            explained_variance(returns, values.detach(), weights),
            count,
        )

    def _step(self, findings: Sequence[Tensor], is_mean: bool) -> Tensor:
        """Take the step, if there are valid transitions; return `METRICS` and their number."""
        found = Findings(*findings)
        active = found.transitions >= (0 if is_mean else 1)
        norm = self._optimiser.step(active, self._config.max_grad_norm)
        self._forward.discard()
        return torch.stack(
            (
                found.policy_loss,
                found.value_loss,
                found.entropy,
                norm,
                found.explained_variance,
                found.transitions,
            )
        )

    def _returns(self, rollout: Rollout, values: Tensor, bootstrap: Tensor) -> Tensor:
        """Return the returns [T, B], from `values` [T, B] and `bootstrap` [B], V_T."""
        return n_step_returns(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            torch.cat((values, bootstrap.unsqueeze(0))),
            self._config.gamma,
        )

    def _losses(
        self, rollout: Rollout, outputs: Tensor, values: Tensor, returns: Tensor, weights: Tensor
    ) -> Losses:
        return a2c_losses(
            outputs,
            values,
            returns,
            rollout.actions,
            weights,
            distribution=self._distribution,
            vf_coef=self._config.vf_coef,
            ent_coef=self._config.ent_coef,
        )

    def state(self) -> dict[str, Tensor]:
        """Return the parameters [P] and RMSprop's square averages [P], live."""
        return {
            "parameters": self.parameters.data,
            "square_average": self._optimiser.square_average,
        }
