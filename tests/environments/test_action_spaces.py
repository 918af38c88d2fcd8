"""Gymnasium's action spaces: what they become, what the environment gets, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import SQUASH, EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments import make_environment
from galamp.environments.action_spaces import action_spec
from tests.contracts.environment import EnvironmentContract

KNOWN: list[tuple[object, ActionSpec]] = [
    (Discrete(4), DiscreteActions(4)),
    (Discrete(4, start=-2), DiscreteActions(4, -2)),
    (MultiDiscrete([2, 3]), MultiDiscreteActions((2, 3))),
    (MultiDiscrete([[2, 3], [4, 5]]), MultiDiscreteActions((2, 3, 4, 5), form=(2, 2))),
    (MultiDiscrete([2, 3], start=[1, 0]), MultiDiscreteActions((2, 3), (1, 0))),
    (MultiBinary(3), MultiBinaryActions(3)),
    (MultiBinary([2, 2]), MultiBinaryActions(4, (2, 2))),
    (Box(-1, 1, (2,)), BoxActions((-1.0, -1.0), (1.0, 1.0))),
    (Box(-1, np.inf, (1,), np.float64), BoxActions((-1.0,), (math.inf,))),
    (Box(0, 1, ()), BoxActions((0.0,), (1.0,), form=())),
]


@pytest.mark.parametrize(("space", "spec"), KNOWN, ids=lambda value: str(value))
def test_spaces_become_specs(space: object, spec: ActionSpec) -> None:
    assert action_spec("Env-v0", space) == spec


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Dict(a=Discrete(2)), "actions in Dict('a': Discrete(2)) cannot be trained: expected"),
        (Tuple((Discrete(2),)), "actions in Tuple(Discrete(2)) cannot be trained: expected"),
        (Text(4), "actions in Text(1, 4, "),
        (Box(0, 255, (2,), np.uint8), "actions in Box(0, 255, (2,), uint8) cannot be trained"),
        (Box(1, 1, (2,)), "Box(1.0, 1.0, (2,), float32): actions: low is not below high"),
        (Box(-1, 1, (0,)), "low and high are not alike"),
    ],
    ids=lambda value: str(value),
)
def test_spaces_that_cannot_be_trained_are_named(space: object, words: str) -> None:
    with pytest.raises(UserError) as told:
        action_spec("Env-v0", space)
    assert str(told.value).startswith("Env-v0: ")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_bounds_are_of_boxes_alone() -> None:
    squashed = action_spec("Env-v0", Box(-1, 1, (1,)), SQUASH)
    assert squashed == BoxActions((-1.0,), (1.0,), SQUASH)
    with pytest.raises(UserError, match="--action-bounds squash: only for Box actions, and Env-v0"):
        action_spec("Env-v0", Discrete(2), SQUASH)
    with pytest.raises(UserError, match="--action-bounds squash: only for Box actions, and ALE"):
        make_environment(EnvironmentConfig("ALE/Pong-v5", action_bounds=SQUASH), [1])


class TestCounted(EnvironmentContract):
    config = EnvironmentConfig("tests.support.toys:Counted")

    def test_actions_are_named_as_the_environment_counts_them(self) -> None:
        environment = make_environment(self.config, [1])
        assert environment.spec.action_meanings == ("-1", "0", "1")
        environment.close()


@pytest.mark.parametrize(
    ("toy", "bounds"),
    [(toy, "clip") for toy in ("Counted", "Dials", "Switches", "Levers")] + [("Levers", SQUASH)],
)
def test_the_environment_gets_actions_of_its_space(toy: str, bounds: str) -> None:
    """The toys raise for any other; a policy's numbers are often out of bounds."""
    config = EnvironmentConfig(f"tests.support.toys:{toy}", action_bounds=bounds)
    environment = make_environment(config, [1, 2, 3])
    environment.reset()
    random = np.random.default_rng(1)
    for _ in range(30):
        environment.step(environment.spec.actions.draw(random, 3))
    environment.close()
