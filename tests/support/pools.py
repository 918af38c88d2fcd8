"""EnvPool's interface without EnvPool: `--env-id tests.support.pools:make_gymnasium --vector`.

Its function and its class say that they are of the package `envpool`: that is how it is told.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

LENGTH = 4
"""Steps of an episode."""


class Pool(gymnasium.Env[Any, Any]):
    """As EnvPool's environments were until 1.2: the spaces of one, and seeds fixed at the start.

    Every episode ends after `LENGTH` steps; the step after that only begins the next one, and its
    reward is to be ignored. The observation is the number of the step in the episode.
    """

    __module__ = "envpool.toy"
    observation_space, action_space = Box(-1, LENGTH, (2,), np.float32), Discrete(2)

    def __init__(self, task_id: str, **config: Any) -> None:
        count = config["num_envs"]
        assert len(config["seed"]) == len(set(config["seed"])) == count, "a seed for each"
        self.config, self.spec = config, SimpleNamespace(task_id=task_id)  # type: ignore[assignment]
        self._steps = np.zeros(count, np.int64)

    def reset(self, *args: Any, **more: Any) -> Any:
        assert not args
        assert not more, "EnvPool warns of seeds"
        self._steps[:] = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert action.shape == self._steps.shape
        self._steps = np.where(self._steps == LENGTH, 0, self._steps + 1)
        ended, rewards = self._steps == LENGTH, np.ones(len(action), np.float32)
        return self._seen(), rewards, ended, np.zeros_like(ended), {}

    def _seen(self) -> Any:
        return np.repeat(self._steps[:, None], 2, axis=1).astype(np.float32)


def make_gymnasium(task_id: str, **config: Any) -> Pool:
    """Return environments, as `envpool.make_gymnasium` does."""
    return Pool(task_id, **config)


make_gymnasium.__module__ = "envpool.registration"
