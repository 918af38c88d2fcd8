"""Leaky V-trace: between V-trace and importance sampling."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from galamp.algorithms.returns import vtrace
from tests.algorithms.test_vtrace import CONFIG, make, with_log_probs
from tests.contracts.algorithm import random_rollout

GAMMA, STEPS, ENVS = 0.9, 5, 3
BOUNDS = {"rho_max": 0.9, "c_max": 0.7, "policy_rho_max": 1.1, "trace_lambda": 0.95}


def rollout() -> tuple[torch.Tensor, ...]:
    """Rewards, terminated, truncated, values, and logarithms of ratios on both sides of 1."""
    draw = torch.Generator().manual_seed(1)
    rewards, values = (torch.randn(n, ENVS, generator=draw) for n in (STEPS, STEPS + 1))
    terminated, truncated = (torch.rand(STEPS, ENVS, generator=draw) < 0.2 for _ in range(2))
    log_ratios = torch.randn(STEPS, ENVS, generator=draw)
    return rewards, terminated, truncated & ~terminated, values, log_ratios


def test_alpha_1_is_vtrace_to_the_bit_even_where_a_ratio_is_infinite() -> None:
    *given, log_ratios = rollout()
    log_ratios[2, 1] = 1000.0
    plain = vtrace(*given, log_ratios, GAMMA, **BOUNDS)
    leaky = vtrace(*given, log_ratios, GAMMA, alpha=1.0, **BOUNDS)
    for one, other in zip(plain, leaky, strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()


def test_alpha_0_is_vtrace_without_bounds() -> None:
    given = rollout()
    leaky = vtrace(*given, GAMMA, alpha=0.0, **BOUNDS)
    boundless = dict.fromkeys(("rho_max", "c_max", "policy_rho_max"), math.inf)
    plain = vtrace(*given, GAMMA, trace_lambda=0.95, **boundless)
    for one, other in zip(plain, leaky, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("alpha", [0.25, 0.8])
def test_in_between_it_is_its_literal_sum(alpha: float) -> None:
    """Zahavy et al. 2020: the ratios are averages of bounded and whole ones, everywhere."""
    rewards, terminated, truncated, values, log_ratios = rollout()
    found = vtrace(rewards, terminated, truncated, values, log_ratios, GAMMA, alpha=alpha, **BOUNDS)
    for env in range(ENVS):
        following = float(values[-1, env])
        for t in reversed(range(STEPS)):
            ratio, value = math.exp(log_ratios[t, env]), float(values[t, env])
            rho, c, policy = (
                alpha * min(ratio, BOUNDS[name]) + (1 - alpha) * ratio
                for name in ("rho_max", "c_max", "policy_rho_max")
            )
            c *= BOUNDS["trace_lambda"]
            following = float(values[t + 1, env]) if truncated[t, env] else following
            discount = 0.0 if terminated[t, env] else GAMMA
            reward, after = float(rewards[t, env]), float(values[t + 1, env])
            advantage = policy * (reward + discount * following - value)
            following = (
                value
                + rho * (reward + discount * after - value)
                + discount * c * (following - after)
            )
            assert float(found.advantages[t, env]) == pytest.approx(advantage, abs=1e-5)
            assert float(found.returns[t, env]) == pytest.approx(following, abs=1e-5)


def test_the_flag_matters_where_the_policy_has_changed() -> None:
    learned = []
    for alpha in (1.0, 0.0):
        algorithm = make(dataclasses.replace(CONFIG, vtrace_alpha=alpha))
        acted = with_log_probs(random_rollout(1), algorithm)
        assert acted.log_probs is not None
        algorithm.update(dataclasses.replace(acted, log_probs=acted.log_probs - 1.0))
        learned.append(algorithm.parameters.data.clone())
    assert not torch.equal(*learned)
