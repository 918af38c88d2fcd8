"""PQN against the algorithm contract and a literal form of its update."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from galamp.algorithms import config_class, make_algorithm
from galamp.algorithms.base import Algorithm, trainable
from galamp.algorithms.minibatches import minibatches
from galamp.algorithms.networks import build_model
from galamp.algorithms.pqn import PQN, epsilon_greedy
from galamp.algorithms.pqn_config import PQNConfig
from galamp.algorithms.returns import lambda_returns
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import RunConfig, to_dict
from galamp.environments import make_environment
from galamp.storage.identity import Identity
from galamp.supervision.layout import sketch_model
from galamp.training.resume_config import stored_config
from galamp.training.train import identity_of
from tests.contracts.algorithm import ACTIONS, INPUTS, AlgorithmContract, random_rollout
from tests.support.command_lines import parsed
from tests.support.in_process import planned

CONFIG = PQNConfig("pqn", learning_rate=2.5e-4)


def make(seed: int = 1, **settings: Any) -> PQN:
    model = build_model("mlp-layernorm", (INPUTS,), "float32", ACTIONS, seed=seed)
    config = dataclasses.replace(CONFIG, **settings)
    algorithm = make_algorithm(
        config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=seed
    )
    assert isinstance(algorithm, PQN)
    return algorithm


class TestPQN(AlgorithmContract):
    def make(self, seed: int) -> Algorithm:
        return make(seed, learning_rate=1e-3)


class Own(PQN):
    """One of the user's, who says no more than that it is like PQN."""


def test_one_of_the_users_that_is_like_it_is_known_by_its_settings() -> None:
    """Its network is one with layer normalisation, and its agents take the best."""
    config = parsed("--algorithm", f"{__name__}:Own", "--env-id", "tests.support.toys:Counted")
    plan = planned(config)
    environment = make_environment(config.environment, [0]).spec
    sketch = sketch_model(plan, environment)
    assert sketch.network == "mlp-layernorm"
    identity = identity_of(plan, environment, sketch)
    assert (identity.algorithm, identity.outputs_are_values) == (f"{__name__}:Own", True)
    assert Identity.from_dict(identity.to_dict()) == identity


@pytest.mark.parametrize(
    ("algorithm", "noted", "kept"),
    [
        ("pqn", "mlp", "mlp"),
        ("pqn", "mlp-layernorm", "auto"),
        ("pqn", "evil:make", "auto"),
        ("pqn", None, "auto"),
        ("a2c", "mlp", "auto"),
    ],
)
def test_a_run_of_before_keeps_the_network_that_auto_was_then(
    tmp_path: Path, algorithm: str, noted: str | None, kept: str
) -> None:
    values = to_dict(RunConfig(algorithm=config_class(algorithm)()))
    values["resolved"] = {"network": noted}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert stored_config(tmp_path, {}).model.network == kept


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_so_many_actions_are_random(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q_values = torch.tensor([[0.0, 2.0, 1.0, -1.0]]).expand(40_000, -1)
    actions = epsilon_greedy(q_values, torch.tensor(epsilon), generator)
    shares = actions.bincount(minlength=4) / len(actions)
    expected = torch.full((4,), epsilon / 4)
    expected[1] += 1.0 - epsilon
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)


def test_epsilon_is_the_same_in_all_learners_at_the_same_agent_steps_of_all() -> None:
    """By the agent steps of all learners, however many rollouts each of them has had."""
    fast, slow = make(), make(seed=2)
    for seed in range(3):
        fast.update(random_rollout(seed))
    expected = {0: 1.0, 50: 0.505, 100: 0.01, 1000: 0.01, 2000: 0.01}
    for agent_steps, epsilon in expected.items():
        for algorithm in (fast, slow):
            algorithm.schedule(agent_steps, 1000)
            found = algorithm.update(random_rollout(9))["epsilon"]
            assert found == pytest.approx(epsilon, abs=1e-6)


def test_an_update_is_the_literal_one() -> None:
    """PyTorch's RAdam and autograd over valid transitions alone, minibatch by minibatch."""
    pqn = make(max_grad_norm=0.5)
    model = build_model("mlp-layernorm", (INPUTS,), "float32", ACTIONS, seed=1)
    optimiser = torch.optim.RAdam(model.parameters(), lr=0.5 * 2.5e-4, eps=1e-8)
    pqn.schedule(50, 100)
    for seed in range(3):
        generator = torch.Generator().set_state(pqn.generator.get_state())
        rollout = random_rollout(seed)
        pqn.update(rollout)
        clean = trainable(rollout)
        with torch.no_grad():
            best = model(clean.observations.flatten(0, 1))[0].max(-1).values.view(6, 8)
        returns = lambda_returns(
            clean.rewards, clean.terminated, clean.truncated, best, 0.99, 0.65
        ).flatten()
        for _ in range(CONFIG.update_epochs):
            for (every,), _ in minibatches(
                (torch.arange(40).view(5, 8),),
                CONFIG.num_minibatches,
                generator,
                whole_envs=False,
            ):
                indices = every.flatten()
                rows = indices[clean.valid.flatten()[indices]]
                q_values, _ = model(clean.observations[:-1].flatten(0, 1)[rows])
                chosen = q_values[torch.arange(len(rows)), clean.actions.flatten()[rows]]
                optimiser.zero_grad()
                nn.functional.mse_loss(chosen, returns[rows]).backward()
                for parameter in model.value.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimiser.step()
        own = dict(pqn._model.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(own[name], parameter, rtol=1e-3, atol=3e-6)
