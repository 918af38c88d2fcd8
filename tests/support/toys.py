"""One toy of each kind of thing that galamp is extended by; CONTRIBUTING.md shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.environments.base import Environment, EnvironmentSpec, Transition
from galamp.gossip.topologies.circulant import Circulant


class ReverseRing(Circulant):
    """The directed ring, downwards: learner r sends to learner r - 1."""

    def offsets(self, round_: int) -> tuple[int, ...]:
        """Return n - 1, which leads one down; nothing where there is one learner."""
        return (self.size - 1,) if self.size > 1 else ()


class Walk(Environment):
    """A walk on a line from a place that the seed draws: 0 goes left, 1 goes right.

    The reward is 1 on the right half. An episode ends after 20 steps.
    """

    def __init__(
        self, env_id: str, config: EnvironmentConfig, seeds: Sequence[int], threads: int
    ) -> None:
        del config, threads
        self.num_envs, self._seeds = len(seeds), seeds
        self.spec = EnvironmentSpec(
            env_id,
            (1,),
            "float32",
            DiscreteActions(2),
            ("left", "right"),
            1,
            False,
            "walk of 20 steps",
            20,
        )
        self.reset()

    def reset(self) -> NDArray[Any]:
        """Go back to where each seed begins; returns the places `[B, 1]`."""
        self._random = [np.random.default_rng(seed) for seed in self._seeds]
        self._place = np.array([random.normal() for random in self._random], np.float32)
        self._steps, self._ended = 0, False
        return self._place[:, None].copy()

    def step(self, actions: NDArray[Any]) -> Transition:
        """Walk by 0.1; the step after the last of an episode only begins the next one."""
        self.spec.actions.check(actions, self.num_envs)
        started, self._steps = self._ended, 0 if self._ended else self._steps + 1
        if started:
            self._place = np.array([random.normal() for random in self._random], np.float32)
        else:
            self._place = self._place + np.where(actions == 1, 0.1, -0.1).astype(np.float32)
        self._ended = self._steps == 20
        rewards = np.zeros(self.num_envs) if started else (self._place > 0).astype(np.float64)
        never, always = np.zeros(self.num_envs, np.bool_), np.ones(self.num_envs, np.bool_)
        return Transition(
            self._place[:, None].copy(),
            rewards,
            terminated=never,
            truncated=always if self._ended else never,
            reset=always if started else never,
        )

    def close(self) -> None:
        """Nothing is held."""


class Targets(gymnasium.Env[Any, Any]):
    """Two contexts, drawn anew at each of ten steps, and an action that pays 1 in each of them.

    An action that is not of the space ends the run: what a policy draws must never get through.
    """

    observation_space = Box(0.0, 1.0, (2,), np.float32)
    action_space: gymnasium.Space[Any]
    targets: ClassVar[tuple[Any, Any]]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not of {self.action_space}")
        self._steps += 1
        paid = 1.0 - float(np.mean(self.missed(action, self.targets[self._context])))
        return self._next(), paid, False, self._steps == 10, {}

    def missed(self, action: Any, target: Any) -> NDArray[Any]:
        """Return for each part of the action how far it is from the target."""
        return np.not_equal(action, target)

    def _next(self) -> NDArray[Any]:
        self._context = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self._context]


class Counted(Targets):
    """Actions from -1 to 1."""

    action_space = Discrete(3, start=-1)
    targets = (-1, 1)


class Dials(Targets):
    """A dial of two and one of three positions."""

    action_space = MultiDiscrete([2, 3])
    targets = ([1, 0], [0, 2])


class Switches(Targets):
    """Four switches in a square."""

    action_space = MultiBinary([2, 2])
    targets = ([[1, 0], [0, 1]], [[0, 0], [1, 1]])


class Levers(Targets):
    """Two levers, each between bounds of its own."""

    action_space = Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32))
    targets = ([0.9, 0.3], [-0.5, 2.5])

    def missed(self, action: Any, target: Any) -> NDArray[Any]:
        return np.abs(action - np.asarray(target))
