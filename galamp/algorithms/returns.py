"""Returns and advantages of rollouts: pure functions of rewards, flags and values.

    n_step_returns       A2C      every return reaches to the end of the rollout
    vtrace               V-trace  the same, corrected for actions of another policy
    lambda_returns       PPO, PQN a mean over returns of all lengths, weighted by powers of lambda

Runs in learners. An episode that ends within the rollout ends its returns: `terminated` without,
`truncated` with the value of the last observation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def n_step_returns(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, values: Tensor, gamma: float | Tensor
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
        gamma: discount factor, or one for each transition, [T, B].

    Returns:
        [T, B] float32.
    """
    _check(rewards, terminated, truncated, values)
    discounts = (~terminated).to(rewards.dtype) * gamma
    returns = torch.empty_like(rewards)
    following = values[-1]
    for t in reversed(range(len(rewards))):
        following = torch.where(truncated[t], values[t + 1], following)
        following = torch.addcmul(rewards[t], discounts[t], following, out=returns[t])
    return returns


class VTrace(NamedTuple):
    """Targets of the value and advantages of the policy gradient, each [T, B] float32."""

    returns: Tensor
    advantages: Tensor


def vtrace(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    values: Tensor,
    log_ratios: Tensor,
    gamma: float | Tensor,
    *,
    trace_lambda: float = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
    policy_rho_max: float = 1.0,
    alpha: float = 1.0,
) -> VTrace:
    """Return the V-trace targets of a rollout whose actions were taken by another policy.

    Method: Espeholt et al. 2018 (IMPALA), equations 1 and 4. With w_t = pi(a_t) / mu(a_t),
    rho = min(w, rho_max), c = lambda min(w, c_max), and from the end, with v_T = V_T:

        v_t = V_t + rho_t (r_t + gamma V_{t+1} - V_t) + gamma c_t (v_{t+1} - V_{t+1})
        advantage_t = min(w_t, policy_rho_max) (r_t + gamma v_{t+1} - V_t)

    computed as v_t = (1 - rho_t) V_t + rho_t r_t + gamma ((rho_t - c_t) V_{t+1} + c_t v_{t+1}),
    which is `n_step_returns` bit for bit where both policies are equal and lambda is 1.

    Args:
        rewards: [T, B] float32.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        values: [T+1, B] float32, V of the observations; no gradient may flow through them.
        log_ratios: [T, B] float32, log pi(a) - log mu(a): of the policy that learns, and of the one
            that acted.
        gamma: discount factor, or one for each transition, [T, B].
        trace_lambda: lambda; less than 1 shortens the returns.
        rho_max: bound of the ratio that decides to which policy the values belong.
        c_max: bound of the ratio that decides how far corrections reach.
        policy_rho_max: bound of the ratio in the policy gradient.
        alpha: weight of the bounded ratios beside the whole ones, in all three places (leaky
            V-trace, Zahavy et al. 2020): 1 is V-trace, 0 is importance sampling.
    """
    _check(rewards, terminated, truncated, values)
    assert log_ratios.shape == rewards.shape
    assert not log_ratios.requires_grad
    ratios = log_ratios.exp()
    rhos, cs = _leaky(ratios, rho_max, alpha), _leaky(ratios, c_max, alpha) * trace_lambda
    discounts = (~terminated).to(rewards.dtype) * gamma
    own = (1.0 - rhos) * values[:-1] + rhos * rewards
    returns, bootstraps = torch.empty_like(rewards), torch.empty_like(rewards)
    following = values[-1]
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1]
        bootstraps[t] = torch.where(truncated[t], next_value, following)
        reached = (rhos[t] - cs[t]) * next_value + cs[t] * bootstraps[t]
        following = torch.addcmul(own[t], discounts[t], reached, out=returns[t])
    errors = torch.addcmul(rewards, discounts, bootstraps) - values[:-1]
    return VTrace(returns, _leaky(ratios, policy_rho_max, alpha) * errors)


def _leaky(ratios: Tensor, most: float, alpha: float) -> Tensor:
    bounded = ratios.clamp(max=most)
    return bounded if alpha == 1.0 else alpha * bounded + (1.0 - alpha) * ratios


def lambda_returns(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    values: Tensor,
    gamma: float | Tensor,
    trace_lambda: float,
) -> Tensor:
    """Return the lambda-returns of a rollout (Sutton and Barto 2018, section 12.1), [T, B].

    From the end, with R_T = V_T:

        R_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda R_{t+1})

    Where an episode ends, as in `n_step_returns`. R - V is the generalised advantage of Schulman et
    al. 2016, equation 16. With the largest action value as V it is the Q(lambda) return of PQN
    (Gallici et al. 2024): from it a trace is not cut after an exploring action.

    Args:
        rewards: [T, B] float32.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        values: [T+1, B] float32; no gradient may flow through them.
        gamma: discount factor, or one for each transition, [T, B].
        trace_lambda: lambda, 0 for one step, 1 for `n_step_returns`.
    """
    _check(rewards, terminated, truncated, values)
    discounts = (~terminated).to(rewards.dtype) * gamma
    returns = torch.empty_like(rewards)
    following = values[-1]
    for t in reversed(range(len(rewards))):
        bootstrap = torch.where(
            truncated[t], values[t + 1], torch.lerp(values[t + 1], following, trace_lambda)
        )
        following = torch.addcmul(rewards[t], discounts[t], bootstrap, out=returns[t])
    return returns


def _check(rewards: Tensor, terminated: Tensor, truncated: Tensor, values: Tensor) -> None:
    assert rewards.dim() == 2
    assert values.shape == (len(rewards) + 1, rewards.shape[1])
    assert terminated.shape == truncated.shape == rewards.shape
    assert terminated.dtype is truncated.dtype is torch.bool
    assert not values.requires_grad
