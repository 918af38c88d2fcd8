"""Distributions over actions: what a policy's outputs mean, by the kind of actions.

    ActionSpec --make_distribution--> Distribution
    outputs [..., num_inputs] of the network's policy head --sample, mode--> actions
    outputs, actions --log_prob, entropy--> [...]

Pure PyTorch; used in learners and in evaluation. No method waits for the device or allocates from
the host, so all can be recorded in CUDA graphs. `[...]` is [B] or [T, B]; actions are a policy's,
see `ActionSpec`: [...] int64 for discrete ones, else [..., k].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions

HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
LOG_2 = math.log(2.0)
NODES = 32
"""Points of the Gauss-Hermite quadrature of a squashed Gaussian's entropy."""


class Distribution(ABC):
    """Distribution over the actions of one policy, given the network's outputs.

    Attributes:
        num_inputs: numbers that the network's policy head gives for each observation.
        state_independent: how many of these, the last ones, are parameters that no observation
            changes, in the networks that come with galamp.
    """

    num_inputs: int
    state_independent: int = 0

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return actions drawn by `generator`, on its device."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities [...] of actions; densities where they are continuous."""

    @abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the entropies [...], in nats."""

    @abstractmethod
    def kl(self, outputs: Tensor, others: Tensor) -> Tensor:
        """Return the KL divergences [...] of the policy with `outputs` from that with `others`."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """Return the most probable actions."""

    def log_prob_and_mean_entropy(
        self, outputs: Tensor, actions: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return `log_prob` [...], and the sum of weights [...] times `entropy` as []."""
        return self.log_prob(outputs, actions), (weights * self.entropy(outputs)).sum()


class Categorical(Distribution):
    """One of n actions, with the softmax of n logits."""

    def __init__(self, n: int) -> None:
        self.num_inputs = n

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Distribution.sample`.

        Method: for independent E_a ~ Exp(1), the smallest E_a / p_a is that of action a with
        probability p_a. In logarithms this needs no softmax.
        """
        arrivals = torch.empty_like(outputs).exponential_(generator=generator)
        return (outputs - arrivals.log_()).argmax(-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        return _taken(outputs.log_softmax(-1), actions)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        log_policy = outputs.log_softmax(-1)
        return -(log_policy.exp() * log_policy).sum(-1)

    def kl(self, outputs: Tensor, others: Tensor) -> Tensor:
        """See `Distribution.kl`."""
        log_policy, log_other = outputs.log_softmax(-1), others.log_softmax(-1)
        return (log_policy.exp() * (log_policy - log_other)).sum(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """See `Distribution.mode`."""
        return outputs.argmax(-1)

    def log_prob_and_mean_entropy(
        self, outputs: Tensor, actions: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Distribution.log_prob_and_mean_entropy`; one softmax serves both."""
        log_policy = outputs.log_softmax(-1)
        # Taken first: autograd adds up gradients in an order that follows, down to the last bit.
        log_taken = _taken(log_policy, actions)
        entropy = -(weights.unsqueeze(-1) * log_policy.exp() * log_policy).sum()
        return log_taken, entropy


class MultiCategorical(Distribution):
    """One of `nvec[i]` choices for each of k parts, independent of one another."""

    def __init__(self, nvec: tuple[int, ...]) -> None:
        self._nvec, self.num_inputs = list(nvec), sum(nvec)
        self._parts = [Categorical(n) for n in nvec]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Distribution.sample`."""
        parts = zip(self._parts, self._split(outputs), strict=True)
        return torch.stack([part.sample(o, generator) for part, o in parts], -1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        taken = zip(self._parts, self._split(outputs), actions.unbind(-1), strict=True)
        return torch.stack([part.log_prob(o, a) for part, o, a in taken]).sum(0)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        parts = zip(self._parts, self._split(outputs), strict=True)
        return torch.stack([part.entropy(o) for part, o in parts]).sum(0)

    def kl(self, outputs: Tensor, others: Tensor) -> Tensor:
        """See `Distribution.kl`."""
        parts = zip(self._parts, self._split(outputs), self._split(others), strict=True)
        return torch.stack([part.kl(o, other) for part, o, other in parts]).sum(0)

    def mode(self, outputs: Tensor) -> Tensor:
        """See `Distribution.mode`."""
        return torch.stack([o.argmax(-1) for o in self._split(outputs)], -1)

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(outputs, self._nvec, -1)


class Bernoulli(Distribution):
    """n switches, each on with the sigmoid of its logit, independent of one another."""

    def __init__(self, n: int) -> None:
        self.num_inputs = n

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Distribution.sample`."""
        level = torch.empty_like(outputs).uniform_(generator=generator)
        return (level < outputs.sigmoid()).to(torch.int64)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        return F.logsigmoid((2 * actions - 1) * outputs).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        return (F.softplus(outputs) - outputs * outputs.sigmoid()).sum(-1)

    def kl(self, outputs: Tensor, others: Tensor) -> Tensor:
        """See `Distribution.kl`."""
        on, off = outputs.sigmoid(), (-outputs).sigmoid()
        more_on = F.logsigmoid(outputs) - F.logsigmoid(others)
        more_off = F.logsigmoid(-outputs) - F.logsigmoid(-others)
        return (on * more_on + off * more_off).sum(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """See `Distribution.mode`."""
        return (outputs > 0).to(torch.int64)


class DiagonalGaussian(Distribution):
    """k independent Gaussians; the outputs are k means, then k log-standard-deviations.

    Averaging log-standard-deviations, as gossip does, is averaging the entropies.
    """

    def __init__(self, k: int) -> None:
        self.num_inputs, self.state_independent = 2 * k, k

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Distribution.sample`."""
        mean, log_std = outputs.chunk(2, -1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + log_std.exp() * noise

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        mean, log_std = outputs.chunk(2, -1)
        away = (actions - mean) * (-log_std).exp()
        return (-0.5 * away.square() - log_std - HALF_LOG_TAU).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        _, log_std = outputs.chunk(2, -1)
        return (log_std + (0.5 + HALF_LOG_TAU)).sum(-1)

    def kl(self, outputs: Tensor, others: Tensor) -> Tensor:
        """See `Distribution.kl`."""
        mean, log_std = outputs.chunk(2, -1)
        other, log_other = others.chunk(2, -1)
        away = ((2.0 * log_std).exp() + (mean - other).square()) * (-2.0 * log_other).exp()
        return (log_other - log_std + 0.5 * away - 0.5).sum(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """See `Distribution.mode`."""
        return outputs.chunk(2, -1)[0].contiguous()


class SquashedGaussian(DiagonalGaussian):
    """A diagonal Gaussian whose numbers go through tanh into their bounds, those that have two.

    Actions are the numbers x before tanh, as the rollout holds them; the environment's are
    a = low + (tanh(x) + 1) / 2 (high - low). `log_prob` is the density of a: that of x over

        da/dx = (high - low) / 2 (1 - tanh(x)^2)
        log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x))

    The last form is stable for all x (Haarnoja et al. 2018, appendix C; TensorFlow Probability).
    `kl` is that of x, as the same map on both sides changes nothing. `mode` gives the most probable
    x, whose a is the median of each number.
    """

    def __init__(self, spec: BoxActions, device: torch.device | str) -> None:
        super().__init__(spec.size)
        low, high = np.array(spec.low, np.float64), np.array(spec.high, np.float64)
        self._squashed = np.flatnonzero(spec.squashed).tolist()
        half = (high[self._squashed] - low[self._squashed]) / 2
        self._log_scale = float(np.log(half).sum())
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self._nodes = torch.tensor(nodes, dtype=torch.float32, device=device)
        weights /= math.sqrt(2.0 * math.pi)
        self._weights = torch.tensor(weights, dtype=torch.float32, device=device)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        stretch = _log_slope(self._of_squashed(actions)).sum(-1) + self._log_scale
        return super().log_prob(outputs, actions) - stretch

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `Distribution.entropy`; the Gaussian's plus the mean of log da/dx, by quadrature."""
        mean, log_std = (self._of_squashed(part) for part in outputs.chunk(2, -1))
        points = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self._nodes
        stretch = (_log_slope(points) * self._weights).sum((-1, -2)) + self._log_scale
        return super().entropy(outputs) + stretch

    def _of_squashed(self, numbers: Tensor) -> Tensor:
        """Return those of numbers [..., k] that are squashed."""
        if len(self._squashed) == numbers.shape[-1]:
            return numbers
        # Not by a list of indices, which would be copied to the device and waited for.
        return torch.stack([numbers[..., at] for at in self._squashed], -1)


def make_distribution(actions: ActionSpec, device: torch.device | str = "cpu") -> Distribution:
    """Return the distribution of policies over such actions, computed on `device`."""
    if isinstance(actions, DiscreteActions):
        return Categorical(actions.n)
    if isinstance(actions, MultiDiscreteActions):
        return MultiCategorical(actions.nvec)
    if isinstance(actions, MultiBinaryActions):
        return Bernoulli(actions.n)
    assert isinstance(actions, BoxActions), "a kind of actions without a distribution"
    if any(actions.squashed):
        return SquashedGaussian(actions, device)
    return DiagonalGaussian(actions.size)


def _taken(log_policy: Tensor, actions: Tensor) -> Tensor:
    """Return the elements of log_policy [..., n] at actions [...]."""
    return log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def _log_slope(x: Tensor) -> Tensor:
    """Return log(1 - tanh(x)^2)."""
    return 2.0 * (LOG_2 - x - F.softplus(-2.0 * x))
