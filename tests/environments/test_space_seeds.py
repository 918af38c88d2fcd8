"""Seeds of spaces: environments that sample from them are repeated, in any wrappers."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from tests.contracts.environment import play

HERE = "tests.environments.test_space_seeds:"
FLAT = "gymnasium.wrappers:FlattenObservation"
SEEDS = (5, 6)
ACTIONS = np.zeros((3, len(SEEDS)), np.int64)


def box() -> Box:
    return Box(-1.0, 1.0, (2,), np.float64)


class Sampler(gymnasium.Env[Any, Any]):
    """Shows samples of its space; the reward is one of its actions."""

    def __init__(self) -> None:
        self.observation_space: Space[Any] = Dict(a=box(), b=Discrete(1000))
        self.action_space: Space[Any] = Discrete(1000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Any]:
        drawn = float(self.action_space.sample())
        return self.observation_space.sample(), drawn, False, False, {}


class BoxSampler(Sampler):
    """The same with observations that are an array."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = box()


class OneAction(gymnasium.ActionWrapper[Any, Any, Any]):
    """Another space of actions."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = Discrete(3)

    def action(self, action: Any) -> Any:
        return action


class Noisy(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Adds samples of its own space, which is another one, to observations."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = Box(-2.0, 2.0, (2,), np.float64)

    def observation(self, observation: Any) -> Any:
        return observation + self.observation_space.sample() / 2


def many(num_envs: int) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: OneAction(BoxSampler())] * num_envs)


def many_nested(num_envs: int) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: OneAction(Sampler())] * num_envs)


class Batch(VectorEnv[Any, Any, Any]):
    """Samples of the spaces of a vector environment that has no single ones."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = box(), Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, actions: Any) -> Any:
        one = self.single_observation_space.sample()
        seen = np.stack([one] * self.num_envs)
        none = np.zeros(self.num_envs, np.bool_)
        drawn = self.action_space.sample() + 10.0 * self.single_action_space.sample()
        return seen, drawn, none, none, {}


class NoEnvironments(Batch):
    """One whose `envs` are something else."""

    envs = 7


def shown(name: str, **settings: Any) -> list[NDArray[Any]]:
    """Return what the environments of that name show, the first environment's first."""
    played = play(EnvironmentConfig(HERE + name, **settings), SEEDS, ACTIONS, len(ACTIONS))
    return [played.first, played.column("observations"), played.column("rewards")]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Sampler", {}),
    ("Sampler", {"wrapper": (FLAT,)}),
    ("Sampler", {"wrapper": (FLAT, HERE + "OneAction"), "max_episode_steps": 9}),
    ("BoxSampler", {"wrapper": (HERE + "Noisy", HERE + "OneAction")}),
    ("many", {"vector": True}),
    ("many_nested", {"vector": True, "wrapper": ("gymnasium.wrappers.vector:FlattenObservation",)}),
    ("Batch", {"vector": True}),
    ("NoEnvironments", {"vector": True}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_what_an_environment_samples_follows_from_its_seed(
    name: str, settings: dict[str, Any]
) -> None:
    one, other = shown(name, **settings), shown(name, **settings)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    if name not in ("Batch", "NoEnvironments"):
        assert not np.array_equal(one[0][0], one[0][1]), "the same for both seeds"


def test_a_vector_environment_samples_as_its_environments_do_one_by_one() -> None:
    alone = shown("BoxSampler", wrapper=(HERE + "OneAction",))
    for mine, theirs in zip(shown("many", vector=True), alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_spaces_of_an_environment_have_its_seed_itself() -> None:
    plain = shown("Sampler")
    space, actions = Dict(a=box(), b=Discrete(1000)), Discrete(1000)
    space.seed(SEEDS[0])
    actions.seed(SEEDS[0])
    first = space.sample()
    np.testing.assert_array_equal(plain[0][0][:2], first["a"].astype(np.float32))
    assert plain[0][0][2:].argmax() == first["b"]
    assert plain[2][:, 0].tolist() == [actions.sample() for _ in ACTIONS]
