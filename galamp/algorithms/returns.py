"""Returns of rollouts: a pure function of rewards, flags and values. Runs in learners."""

from __future__ import annotations

import torch
from torch import Tensor


def n_step_returns(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, values: Tensor, gamma: float
) -> Tensor:
    """Return the n-step returns of a rollout; each reaches to the end of the rollout.

    From the end, with R_T = V_T:

        R_t = r_t                   where terminated_t
        R_t = r_t + gamma V_{t+1}   where truncated_t
        R_t = r_t + gamma R_{t+1}   elsewhere

    This is the return of A3C (Mnih et al. 2016, algorithm S3), which has no truncation. If both
    flags are set, terminated wins.

    Args:
        rewards: [T, B] float32.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        values: [T+1, B] float32, V of the observations; no gradient may flow through them.
        gamma: discount factor.

    Returns:
        [T, B] float32.
    """
    assert rewards.dim() == 2
    assert values.shape == (len(rewards) + 1, rewards.shape[1])
    assert terminated.shape == truncated.shape == rewards.shape
    assert terminated.dtype is truncated.dtype is torch.bool
    assert not values.requires_grad
    discounts = (~terminated).to(rewards.dtype) * gamma
    returns = torch.empty_like(rewards)
    following = values[-1]
    for t in reversed(range(len(rewards))):
        following = torch.where(truncated[t], values[t + 1], following)
        following = torch.addcmul(rewards[t], discounts[t], following, out=returns[t])
    return returns
