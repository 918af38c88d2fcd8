"""Minibatches of a rollout: each transition once per epoch, in a random order.

    Rollout [T, B] --flat--> transitions [T B] --permutation--> minibatches [N], equal in size

Runs in learners. Invalid transitions stay in, with a weight of zero: so shapes never change, and a
GPU need not tell the host how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def minibatches(count: int, parts: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of `parts` minibatches, [N] int64; sizes differ by one at most.

    A minibatch may be empty, where there are more parts than transitions.
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    yield from order.tensor_split(parts)


def mean_weights(valid: Tensor) -> Tensor:
    """Return each transition's weight in a mean over the valid ones: 1/n, or 0 where invalid."""
    return valid / valid.sum().clamp(min=1)


def standardised(values: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Return `values` [N] with mean 0 and standard deviation 1 under `weights` [N].

    The variance is the unbiased one, as `torch.std` has it.
    """
    count = (weights > 0).sum()
    mean = (weights * values).sum()
    variance = (weights * (values - mean).square()).sum() * (count / (count - 1).clamp(min=1))
    return (values - mean) / (variance.sqrt() + eps)
