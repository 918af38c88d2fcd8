"""Returns against the values of rlax's own tests, and the properties that connect them.

Golden values: google-deepmind/rlax, `_src/vtrace_test.py` and `_src/multistep_test.py`, Apache-2.0.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from galamp.algorithms.returns import lambda_returns, n_step_returns, vtrace

FOLLOWING_VALUES = [[3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7]]
REWARDS = [[1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1]]
DISCOUNTS = [[0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]]


def columns(rows: list[list[float]]) -> Tensor:
    """rlax's [B, T] as [T, B]."""
    return torch.tensor(rows).T.contiguous()


def known_values(following: Tensor) -> Tensor:
    """Values [T+1, B] of which only those after the first matter."""
    return torch.cat((torch.zeros(1, following.shape[1]), following))


def no_end(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Flags of a rollout in which no episode ends."""
    return torch.zeros_like(rewards, dtype=torch.bool), torch.zeros_like(rewards, dtype=torch.bool)


# Golden values


@pytest.mark.parametrize(
    ("trace_lambda", "expected"),
    [
        (
            0.75,
            [
                [1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4],
                [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99],
            ],
        ),
        (1.0, [[1.315, 0.63, 0.70, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99]]),
    ],
)
def test_lambda_returns_are_those_of_rlax(trace_lambda: float, expected: list[list[float]]) -> None:
    rewards = columns(REWARDS)
    values = known_values(columns(FOLLOWING_VALUES))
    returns = lambda_returns(rewards, *no_end(rewards), values, columns(DISCOUNTS), trace_lambda)
    torch.testing.assert_close(returns, columns(expected), rtol=1e-5, atol=1e-5)


def test_returns_of_three_steps_are_those_of_rlax() -> None:
    rewards, discounts = columns(REWARDS), columns(DISCOUNTS)
    values = known_values(columns(FOLLOWING_VALUES))
    returns = [
        n_step_returns(
            rewards[t : t + 3],
            *no_end(rewards[t : t + 3]),
            values[t : t + 4],
            discounts[t : t + 3],
        )[0]
        for t in range(len(rewards))
    ]
    expected = [[2.8, -3.15, 0.7, 1.7, 3.4], [1.2155, 0.714, 0.2576, 3.192, 3.99]]
    torch.testing.assert_close(torch.stack(returns), columns(expected), rtol=1e-5, atol=1e-5)


BEHAVIOUR_LOGITS = [
    [[8.9, 0.7], [5.0, 1.0], [0.6, 0.1], [-0.9, -0.1]],
    [[0.3, -5.0], [1.0, -8.0], [0.3, 1.7], [4.7, 3.3]],
]
TARGET_LOGITS = [
    [[0.4, 0.5], [9.2, 8.8], [0.7, 4.4], [7.9, 1.4]],
    [[1.0, 0.9], [1.0, -1.0], [-4.3, 8.7], [0.8, 0.3]],
]
ACTIONS = [[0, 1, 0, 0], [1, 0, 0, 1]]


def log_taken(logits: list[list[list[float]]]) -> Tensor:
    """Log-probabilities of ACTIONS, [T, B]."""
    log_policy = torch.tensor(logits).log_softmax(-1)
    return log_policy.gather(-1, torch.tensor(ACTIONS).unsqueeze(-1)).squeeze(-1).T


def test_vtrace_is_that_of_rlax() -> None:
    rewards = columns([[-1.3, -1.3, 2.3, 42.0], [1.3, 5.3, -3.3, -5.0]])
    values = torch.cat(
        (columns([[2.1, 1.1, -3.1, 0.0], [3.1, 0.1, -1.1, 7.4]]), torch.tensor([[8.4, -1.2]]))
    )
    targets = vtrace(
        rewards,
        *no_end(rewards),
        values,
        log_taken(TARGET_LOGITS) - log_taken(BEHAVIOUR_LOGITS),
        columns([[0.0, 0.89, 0.85, 0.99], [0.88, 1.0, 0.83, 0.95]]),
    )
    expected = [
        [-1.6155143, -3.4973226, 1.8670533, 50.316002],
        [1.4662437, 3.6116405, -8.3327e-5, -13.54],
    ]
    torch.testing.assert_close(
        targets.returns - values[:-1], columns(expected), rtol=1e-3, atol=1e-5
    )


# Properties

rollouts = st.builds(
    lambda seed, steps, envs: random_targets(seed, steps, envs),
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 4),
)


def random_targets(seed: int, steps: int, envs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, flags and values of a rollout in which episodes end."""
    generator = torch.Generator().manual_seed(seed)
    terminated, truncated = (torch.rand(steps, envs, generator=generator) < 0.3 for _ in range(2))
    return (
        torch.randn(steps, envs, generator=generator),
        terminated,
        truncated,
        torch.randn(steps + 1, envs, generator=generator),
    )


@settings(max_examples=60, deadline=None)
@given(rollouts, st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_vtrace_of_equal_policies_is_the_n_step_return_bit_for_bit(
    rollout: tuple[Tensor, Tensor, Tensor, Tensor], gamma: float
) -> None:
    targets = vtrace(*rollout, torch.zeros_like(rollout[0]), gamma)
    returns = n_step_returns(*rollout, gamma)
    assert torch.equal(targets.returns, returns)
    assert torch.equal(targets.advantages, returns - rollout[3][:-1])


@settings(max_examples=60, deadline=None)
@given(rollouts, st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_generalised_advantages_of_lambda_one_are_n_step_returns_less_values(
    rollout: tuple[Tensor, Tensor, Tensor, Tensor], gamma: float
) -> None:
    assert torch.equal(lambda_returns(*rollout, gamma, 1.0), n_step_returns(*rollout, gamma))


@settings(max_examples=60, deadline=None)
@given(rollouts)
def test_vtrace_is_its_literal_sum(rollout: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Equations 1 and 4 of Espeholt et al. 2018, one environment and step at a time."""
    rewards, terminated, truncated, values = rollout
    steps, envs = rewards.shape
    log_ratios = torch.randn(steps, envs, generator=torch.Generator().manual_seed(steps))
    targets = vtrace(
        *rollout, log_ratios, 0.9, trace_lambda=0.8, rho_max=1.5, c_max=0.7, policy_rho_max=1.2
    )
    for env in range(envs):
        following = float(values[steps, env])
        for start in reversed(range(steps)):
            total, weight = float(values[start, env]), 1.0
            for t in range(start, steps):
                ratio = float(log_ratios[t, env].exp())
                discount = 0.0 if terminated[t, env] else 0.9
                delta = float(rewards[t, env] + discount * values[t + 1, env] - values[t, env])
                total += weight * min(ratio, 1.5) * delta
                if terminated[t, env] or truncated[t, env]:
                    break
                weight *= discount * 0.8 * min(ratio, 0.7)
            assert float(targets.returns[start, env]) == pytest.approx(total, abs=1e-4)
            ratio = float(log_ratios[start, env].exp())
            discount = 0.0 if terminated[start, env] else 0.9
            bootstrap = float(values[start + 1, env]) if truncated[start, env] else following
            error = float(rewards[start, env]) + discount * bootstrap - float(values[start, env])
            advantage = min(ratio, 1.2) * error
            assert float(targets.advantages[start, env]) == pytest.approx(advantage, abs=1e-4)
            following = total


@pytest.mark.parametrize("cut", ["terminated", "truncated"])
@pytest.mark.parametrize("kind", ["n-step", "lambda", "vtrace"])
def test_two_episodes_in_one_rollout_are_two_rollouts(cut: str, kind: str) -> None:
    rewards, *_, values = random_targets(3, 8, 2)
    none = torch.zeros(8, 2, dtype=torch.bool)
    ends = none.clone()
    ends[3] = True
    terminated, truncated = (ends, none) if cut == "terminated" else (none, ends)

    def targets(steps: slice) -> tuple[Tensor, ...]:
        part = rewards[steps], terminated[steps], truncated[steps]
        of = values[steps.start : steps.stop + 1]
        if kind == "n-step":
            return (n_step_returns(*part, of, 0.9),)
        if kind == "lambda":
            return (lambda_returns(*part, of, 0.9, 0.7),)
        log_ratios = torch.linspace(-1, 1, 16).view(8, 2)[steps]
        return vtrace(*part, of, log_ratios, 0.9, policy_rho_max=1.2)

    halves = zip(targets(slice(0, 4)), targets(slice(4, 8)), strict=True)
    for whole, both in zip(targets(slice(0, 8)), halves, strict=True):
        assert torch.equal(whole, torch.cat(both))
