"""Minibatches of a rollout: each transition once per epoch, in a random order.

    parts [T, B, ...] --transitions, or environments, in random order--> minibatches [t, n, ...]

Runs in learners. A feedforward network learns from single transitions, [1, n]; a recurrent
one from the rollouts of whole environments, [T, n]. Invalid transitions stay in, with a weight of
zero: so shapes never change, and a GPU need not tell the host how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def minibatches(
    parts: Sequence[Tensor], count: int, generator: torch.Generator, *, whole_envs: bool
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield `count` minibatches, or as many as there are transitions or environments, if fewer.

    Their sizes differ by one at most.

    Args:
        parts: [T, B, ...] each.
        count: number of minibatches that are wanted.
        generator: draws the order, on the device of the parts.
        whole_envs: whether each environment's transitions stay together and in order.

    Yields:
        the parts, [t, n, ...] each, and which environment each column is of, [n] int64.
    """
    steps, envs = parts[0].shape[:2]
    total = envs if whole_envs else steps * envs
    order = torch.randperm(total, generator=generator, device=generator.device)
    for indices in order.tensor_split(min(count, total)):
        # On CPUs index_select copies a transition as a whole, indexing each of its bytes.
        if whole_envs:
            yield [part.index_select(1, indices) for part in parts], indices
        else:
            rows = [part.flatten(0, 1).index_select(0, indices) for part in parts]
            yield [part.unsqueeze(0) for part in rows], indices % envs


def mean_weights(valid: Tensor) -> Tensor:
    """Return each transition's weight in a mean over the valid ones: 1/n, or 0 where invalid."""
    return valid / valid.sum().clamp(min=1)


def standardised(values: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Return `values` with mean 0 and standard deviation 1 under `weights`, of the same shape.

    The variance is the unbiased one, as `torch.std` has it.
    """
    count = (weights > 0).sum()
    mean = (weights * values).sum()
    variance = (weights * (values - mean).square()).sum() * (count / (count - 1).clamp(min=1))
    return (values - mean) / (variance.sqrt() + eps)
