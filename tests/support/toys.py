"""One toy of each kind of thing that galamp is extended by; CONTRIBUTING.md shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
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
