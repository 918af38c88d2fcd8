"""Actor-critic with V-trace (Espeholt et al. 2018, IMPALA): A2C for actions of an older policy.

Runs in learners. The log-probability of an action is kept from when it was taken. So a policy that
has changed since, by an update or by a gossip round, is corrected for. Where it has not changed,
V-trace is A2C.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from galamp.algorithms.a2c import A2C, Targets
from galamp.algorithms.base import Rollout
from galamp.algorithms.returns import vtrace
from galamp.algorithms.vtrace_config import VTraceConfig
from galamp.core.action_spec import ActionSpec
from galamp.core.algorithm_config import AlgorithmConfig


class VTrace(A2C):
    """A2C with V-trace targets."""

    config_class: ClassVar[type[AlgorithmConfig]] = VTraceConfig
    measures: ClassVar[tuple[str, ...]] = tuple(VTraceConfig.gauges)
    keeps_log_probs: ClassVar[bool] = True

    def __init__(
        self,
        config: VTraceConfig,
        model: nn.Module,
        *,
        actions: ActionSpec,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Move `model` to `device`; see `make_algorithm`."""
        super().__init__(config, model, actions=actions, device=device, seed=seed)
        self._traces = config

    def _targets(
        self, rollout: Rollout, outputs: Tensor, values: Tensor, weights: Tensor
    ) -> Targets:
        """Return the V-trace targets; see `A2C._targets`."""
        assert rollout.log_probs is not None
        log_ratios = self.distribution.log_prob(outputs, rollout.actions) - rollout.log_probs
        log_ratios = log_ratios.masked_fill(~rollout.valid, 0.0)
        returns, advantages = vtrace(
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            values,
            log_ratios,
            self._config.gamma,
            trace_lambda=self._traces.vtrace_lambda,
            rho_max=self._traces.vtrace_rho_max,
            c_max=self._traces.vtrace_c_max,
            policy_rho_max=self._traces.vtrace_rho_max,
            alpha=self._traces.vtrace_alpha,
        )
        ratios = log_ratios.exp()
        # Schulman 2020, "Approximating KL divergence", the third estimator: never negative.
        kl = (weights * (ratios - 1.0 - log_ratios)).sum()
        clipped = (weights * (ratios > self._traces.vtrace_rho_max)).sum()
        return Targets(returns, advantages, (kl, clipped))
