"""V-trace against the algorithm contract, and against A2C where both policies are equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c import A2C, Targets, a2c_losses
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.distributions import Categorical
from galamp.algorithms.forward import Place
from galamp.algorithms.networks import build_model
from galamp.algorithms.vtrace import VTrace
from galamp.algorithms.vtrace_config import VTraceConfig
from galamp.core.action_spec import DiscreteActions
from tests.contracts.algorithm import ACTIONS, INPUTS, AlgorithmContract, random_rollout

A2C_CONFIG = A2CConfig(learning_rate=7e-4, rmsprop_initial=0.0)
CONFIG = VTraceConfig("vtrace", learning_rate=7e-4, rmsprop_initial=0.0)


def make(config: Any, seed: int = 1) -> Any:
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=seed)
    return make_algorithm(config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=seed)


class TestVTrace(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        algorithm = make(CONFIG, seed)
        assert isinstance(algorithm, VTrace)
        return algorithm


def with_log_probs(rollout: Rollout, algorithm: A2C) -> Rollout:
    """`rollout` as if the present policy had acted."""
    with torch.no_grad():
        logits = algorithm._model(rollout.observations[:-1].flatten(0, 1))[0]
    log_policy = logits.view(*rollout.actions.shape, -1).log_softmax(-1)
    taken = log_policy.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
    return dataclasses.replace(rollout, log_probs=taken)


def test_it_is_a2c_where_the_policy_has_not_changed() -> None:
    a2c, vtrace = make(A2C_CONFIG), make(CONFIG)
    for seed in range(5):
        rollout = random_rollout(seed)
        expected = a2c.update(rollout)
        found = vtrace.update(with_log_probs(rollout, vtrace))
        assert found | {"behaviour_kl": 0.0, "clipped_ratios": 0.0} == found
        assert {name: found[name] for name in expected} == expected
        assert torch.equal(a2c.parameters.data, vtrace.parameters.data)


def test_actions_of_another_policy_are_corrected() -> None:
    """The policy gradient of a bandit is the same, whoever has drawn the actions."""
    generator = torch.Generator().manual_seed(3)
    count = 200_000
    behaviour = torch.tensor([0.5, 0.3, 0.2])
    actions = torch.multinomial(behaviour, count, replacement=True, generator=generator)
    always = torch.ones(1, count, dtype=torch.bool)
    rollout = Rollout(
        observations=torch.zeros(2, count, INPUTS),
        actions=actions.unsqueeze(0),
        rewards=torch.tensor([1.0, 2.0, 4.0])[actions].unsqueeze(0),
        terminated=always,
        truncated=~always,
        valid=always,
        first=torch.ones(2, count, dtype=torch.bool),
        log_probs=behaviour.log()[actions].unsqueeze(0),
    )
    config = dataclasses.replace(
        CONFIG, vtrace_rho_max=100.0, vtrace_c_max=100.0, max_grad_norm=1e9, ent_coef=0.0
    )
    vtrace = make(dataclasses.replace(config, vf_coef=0.0))
    found = vtrace._compute_gradient(rollout)
    corrected = vtrace.parameters.grad.clone()
    # The exact gradient: every action once, weighted by the present policy.
    vtrace.parameters.zero_grad()
    logits, values = vtrace._model(torch.zeros(1, INPUTS))
    advantages = torch.tensor([1.0, 2.0, 4.0]) - values.detach()
    policy = logits.softmax(-1).squeeze(0)
    (-(policy.detach() * advantages * policy.log()).sum()).backward()
    torch.testing.assert_close(corrected, vtrace.parameters.grad, rtol=0.05, atol=0.02)
    assert float(found[4]) > 0.01


@pytest.mark.parametrize("name", ["vtrace_rho_max", "vtrace_c_max", "vtrace_lambda"])
def test_every_bound_matters_where_the_policy_has_changed(name: str) -> None:
    rollout = random_rollout(1)
    shifted = dataclasses.replace(rollout, log_probs=torch.full(rollout.rewards.shape, -2.5))
    first, second = make(CONFIG), make(dataclasses.replace(CONFIG, **{name: 0.5}))
    first.update(shifted)
    second.update(shifted)
    assert not torch.equal(first.parameters.data, second.parameters.data)


def test_the_policy_gradient_and_the_entropy_are_those_of_rlax() -> None:
    """google-deepmind/rlax, `_src/policy_gradients_test.py`, Apache-2.0."""
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
    weights = torch.tensor([-2.0, 2.0, 0.0])
    advantages = torch.tensor([0.3, 0.2, 0.1])
    actions = torch.tensor([[0, 1, 2], [0, 0, 0]])
    found = []
    for batch, sign in enumerate((1.0, -1.0)):
        returns = torch.zeros(3, 1)
        losses = a2c_losses(
            (logits + batch).unsqueeze(1),
            returns,
            Targets(returns, sign * advantages.unsqueeze(1)),
            actions[batch].unsqueeze(1),
            (weights - batch).unsqueeze(1) / 3,
            distribution=Categorical(3),
            vf_coef=0.5,
            ent_coef=0.01,
        )
        found.append([float(losses.policy_loss), -float(losses.entropy)])
    assert found[0] == pytest.approx([0.0788835088, 0.288693], abs=1e-4)
    assert found[1] == pytest.approx([0.327200909, 1.15422], abs=1e-4)


def test_one_copy_acts_and_one_learns_by_the_cached_forward_pass() -> None:
    """What acting has cached is of no use to the other copy, and of none after an update."""
    config = dataclasses.replace(CONFIG, learning_rate=0.01)
    steps, envs = 3, 2
    drawn = torch.Generator().manual_seed(2)
    shape = (4, steps + 1, envs, 36, 36, 4)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)

    def fresh() -> VTrace:
        model = build_model("gala", (36, 36, 4), "uint8", ACTIONS, seed=1)
        actions = DiscreteActions(ACTIONS)
        made = make_algorithm(config, model, actions=actions, device="cpu", seed=1)
        assert isinstance(made, VTrace)
        return made

    plain, learner, copy = fresh(), fresh(), fresh()
    plain.prepare(steps, envs), learner.prepare(steps, envs), copy.prepare(1, envs)
    every = slice(0, envs)
    for observations in images:
        first = torch.zeros(steps + 1, envs, dtype=torch.bool)
        copy.follow(learner)
        kept = []
        for step in range(steps):
            expected = plain.act(observations[step], first[step], Place(step, every))
            found = copy.act(observations[step], first[step], Place(0, every))
            assert all(map(torch.equal, found, expected))
            kept.append(found)
        rollout = Rollout(
            observations,
            actions=torch.stack([each.actions for each in kept]),
            rewards=torch.ones(steps, envs),
            terminated=first[1:],
            truncated=first[1:],
            valid=~first[1:],
            first=first,
            log_probs=torch.stack([each.log_probs for each in kept]),
        )
        assert learner.update(rollout) == plain.update(rollout)
        assert torch.equal(learner.parameters.data, plain.parameters.data)
