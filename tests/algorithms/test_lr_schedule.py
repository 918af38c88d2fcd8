"""Learning-rate schedules: what each makes of the learning rate, and that steps are taken by it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from galamp.algorithms import ALGORITHMS, config_class, make_algorithm
from galamp.algorithms.actor_critic import ActorCriticAlgorithm
from galamp.algorithms.flat_parameters import FlatParameters
from galamp.algorithms.networks import build_model
from galamp.algorithms.rmsprop import FlatRMSprop
from galamp.core.action_spec import DiscreteActions
from galamp.core.algorithm_config import lr_factor
from tests.contracts.algorithm import ACTIONS, INPUTS, random_rollout

RATE = 1e-3


def make(name: str, schedule: str, rate: float = RATE) -> ActorCriticAlgorithm:
    config = dataclasses.replace(config_class(name)(), learning_rate=rate, lr_schedule=schedule)
    model = build_model("mlp", (INPUTS,), "float32", ACTIONS, seed=1)
    made = make_algorithm(config, model, actions=DiscreteActions(ACTIONS), device="cpu", seed=1)
    assert isinstance(made, ActorCriticAlgorithm)
    return made


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.0]),
        ("cosine", [1.0, 0.5 + 0.5 * 2**-0.5, 0.5, 0.0]),
    ],
)
def test_factors(schedule: str, factors: list[float]) -> None:
    assert [lr_factor(schedule, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(factors)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_is_by_the_learning_rate_of_its_time(name: str, schedule: str) -> None:
    rollout = random_rollout(3)
    scheduled = make(name, schedule)
    scheduled.schedule(30, 100)
    assert scheduled.learning_rate == pytest.approx(RATE * lr_factor(schedule, 0.3))
    plain = make(name, "constant", scheduled.learning_rate)
    plain.schedule(30, 100)  # for PQN's epsilon
    for each in (scheduled, plain):
        each.update(rollout)
    assert torch.equal(scheduled.parameters.data, plain.parameters.data)
    usual = make(name, "constant")
    usual.schedule(30, 100)
    usual.update(rollout)
    assert usual.learning_rate == RATE
    assert not torch.equal(scheduled.parameters.data, usual.parameters.data)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_with_another_total_goes_on_at_its_share_of_that(name: str) -> None:
    algorithm = make(name, "linear")
    algorithm.schedule(100, 100)
    assert algorithm.learning_rate == 0.0
    algorithm.schedule(100, 400)
    assert algorithm.learning_rate == pytest.approx(0.75 * RATE)
    algorithm.schedule(500, 400)
    assert algorithm.learning_rate == 0.0, "learners that count alone may pass the total"


@pytest.mark.parametrize("form", ["torch", "tf"])
def test_a_tensor_is_as_good_as_a_number(form: str) -> None:
    """GPUs take it so in steps that are recorded."""
    learned = []
    for rate in (0.01, torch.tensor(0.01)):
        torch.manual_seed(0)
        flat = FlatParameters(nn.Linear(3, 2), "cpu")
        optimiser = FlatRMSprop(flat, learning_rate=rate, alpha=0.99, eps=1e-5, form=form)
        flat.grad.copy_(torch.linspace(-1.0, 1.0, 8))
        optimiser.step(torch.tensor(True), 0.5)
        learned.append(flat.data.clone())
    torch.testing.assert_close(learned[0], learned[1], rtol=1e-6, atol=1e-7)
