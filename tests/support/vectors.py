"""Environments as people have them: `--env-id tests.support.vectors:NAME`, single and many."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from galamp.environments.making import Env

END, LIMIT = 3, 7
"""Distance at which a walk terminates, and steps after which it is cut."""

SPACE = Box(-100.0, 1e6, (3,), np.float64)
"""Number of the episode, of the step in it, and the place."""


class Walk(gymnasium.Env[Any, Any]):
    """A walk from a place drawn at each reset; the reward is the place."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"]}
    observation_space, action_space = SPACE, Discrete(2)

    def __init__(self, end: int = END, limit: int = LIMIT, render_mode: str | None = None) -> None:
        self.end, self.limit, self.render_mode = end, limit, render_mode
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        if seed is not None:
            self.episode = -1
        self.episode += 1
        self.steps, self.place = 0, int(self.np_random.integers(-1, 2))
        return self._seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Any]:
        self.steps += 1
        self.place += 2 * int(action) - 1
        over = abs(self.place) >= self.end
        return self._seen(), float(self.place), over, self.steps >= self.limit, {}

    def _seen(self) -> NDArray[Any]:
        return np.array([self.episode, self.steps, self.place], np.float64)


class Rendered(Walk):
    """A walk that is nothing without its frames."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if self.render_mode != "rgb_array":
            raise LookupError(f"render_mode {self.render_mode}")
        return super().reset(seed=seed, options=options)


class SlowToReset(Walk):
    """A walk of 7 steps that takes its time to begin each episode but the first."""

    SLOW_S: ClassVar[float] = 0.6

    def __init__(self) -> None:
        super().__init__(end=99)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if seed is None:
            time.sleep(self.SLOW_S)
        return super().reset(seed=seed, options=options)


class Doubled(gymnasium.RewardWrapper[Any, Any]):
    """Twice the reward."""

    def reward(self, reward: Any) -> float:
        return 2.0 * float(reward)


class Plus(gymnasium.RewardWrapper[Any, Any]):
    """One more."""

    def reward(self, reward: Any) -> float:
        return 1.0 + float(reward)


class Hungry(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes more than an environment."""

    def __init__(self, env: Env, food: str) -> None:
        super().__init__(env)
        self.food = food


class Sour(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes no environment at all."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        raise LookupError("no such\nplace")


def number(env: Env) -> int:
    """Return no environment."""
    return 3


gymnasium.register("vectors/Walk-v0", Walk, kwargs={"limit": 5})


def next_step(num_envs: int, limit: int = LIMIT) -> VectorEnv[Any, Any, Any]:
    """Environments that reset in the next step."""
    return SyncVectorEnv([lambda: Walk(limit=limit)] * num_envs)


def same_step(num_envs: int, limit: int = LIMIT) -> VectorEnv[Any, Any, Any]:
    """Environments that reset in the same step."""
    made = [lambda: Walk(limit=limit)] * num_envs
    return SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)


def disabled(num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Environments that wait for somebody who resets them."""
    return SyncVectorEnv([Walk] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def nested(num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Observations that are no array."""
    made = next_step(num_envs)
    made.single_observation_space = Dict(a=SPACE)
    return made


def too_few(num_envs: int) -> VectorEnv[Any, Any, Any]:
    """One environment less than asked for, but one at least."""
    return next_step(max(num_envs - 1, 1) + 2)


def countless() -> VectorEnv[Any, Any, Any]:
    """As many as it likes."""
    return next_step(4)


def single(num_envs: int) -> Env:
    """One environment, whatever is asked for."""
    del num_envs
    return Walk()


class Batch(VectorEnv[Any, Any, Any]):
    """Walks as arrays, without a loop; in the same step, with all last observations in one array.

    It returns its own buffers, which change with the next step.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": "SameStep"}
    single_observation_space, single_action_space = SPACE, Discrete(2)

    def __init__(self, num_envs: int, seed: int, num_threads: int = 0, tells: bool = True) -> None:
        self.num_envs, self.tells, self.made_with = num_envs, tells, (seed, num_threads)
        self.observation_space = batch_space(SPACE, num_envs)
        self.action_space = batch_space(Discrete(2), num_envs)
        self._seen = np.zeros((num_envs, 3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._seen[:] = 0.0
        self._seen[:, 2] = self.np_random.integers(-1, 2, self.num_envs)
        return self._seen, {}

    def step(self, actions: NDArray[Any]) -> Any:
        assert actions.shape == (self.num_envs,)
        self._seen[:, 1] += 1
        self._seen[:, 2] += 2 * actions - 1
        over, cut = np.abs(self._seen[:, 2]) >= END, self._seen[:, 1] >= LIMIT
        rewards, ended = self._seen[:, 2].copy(), over | cut
        info = {"final_obs": self._seen.copy()} if ended.any() and self.tells else {}
        self._seen[ended, 0] += 1
        self._seen[ended, 1:] = 0
        return self._seen, rewards, over, cut, info


class Doubling(gymnasium.vector.VectorRewardWrapper[Any, Any, Any]):
    """Twice the reward of every environment."""

    def rewards(self, rewards: Any) -> Any:
        return 2.0 * rewards
