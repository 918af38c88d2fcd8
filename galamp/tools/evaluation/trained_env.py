"""The environment of a training as a Gymnasium one: the same preprocessing, the same protocol.

    actions as `Agent.act` returns them --TrainedEnv--> galamp's own Environment, one game
    observations as `Agent.act` takes them, rewards <------|

Runs in users' programs. It steps what simulators step, so nothing is preprocessed a second way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

from galamp.core.action_spec import (
    ActionSpec,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
)
from galamp.core.box_actions import BoxActions
from galamp.core.config import CLIP, EnvironmentConfig
from galamp.environments import SEED_LIMIT, EnvironmentSpec, make_environment
from galamp.environments.failures import failures_reported


class TrainedEnv(gymnasium.Env[NDArray[Any], Any]):
    """One environment of a training, with Gymnasium's interface; made by `Agent.env`.

    The next episode goes on from the random numbers of the last one, as in training. Where a lost
    life ends an episode, the game goes on at the next one, after a no-op, as in `EpisodicLifeEnv`
    of OpenAI Baselines. A vector environment that resets at once shows the first observation of the
    next episode in place of the last one.

    Attributes:
        protocol: how it is played, in one line.
    """

    def __init__(self, environment: EnvironmentConfig, seed: int) -> None:
        """Make the environment; `seed` is that of the first episode.

        Raises:
            UserError: it cannot be made here.
        """
        # Actions come as the environment takes them: there is nothing left to be squashed.
        self._config = replace(environment, num_envs=1, action_bounds=CLIP)
        self._is_new, self._is_within = True, False
        self._following: NDArray[Any] | None = None
        self._make(seed)
        spec = self._environment.spec
        self.protocol = spec.protocol
        self.observation_space = _observation_space(spec)
        self.action_space = _action_space(spec.actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode and return its first observation, and an empty dict.

        Args:
            seed: the environment is made anew with it; None: it goes on.
            options: without meaning here.
        """
        super().reset(seed=seed)
        if seed is not None or self._is_within:
            self._environment.close()
            self._make(self._next_seed() if seed is None else seed)
        if self._is_new:
            with failures_reported(self._config.env_id):
                observation = self._environment.reset()[0]
        elif self._following is not None:
            observation = self._following
        else:
            observation = self._next_episode()
        self._is_new, self._is_within, self._following = False, False, None
        return observation, {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take one agent step, of as many frames as the protocol skips.

        Args:
            action: one of `action_space`.

        Returns:
            observation, reward, whether the episode has ended, whether it was cut, and a dict.

        Raises:
            ValueError: the action is none of its space; nothing was stepped.
        """
        actions = _policys(self._environment.spec.actions, action)
        with failures_reported(self._config.env_id):
            step = self._environment.step(actions)
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        self._is_within = not (terminated or truncated)
        if step.ended is not None and step.ended[0]:
            self._following = step.observations[0]
        reward = float(step.rewards[0])
        if self._environment.spec.clip_rewards:
            reward = float(np.clip(reward, -1.0, 1.0))
        return step.observations[0], reward, terminated, truncated, {}

    def close(self) -> None:
        """Free the game; to close twice is allowed."""
        self._environment.close()

    def __str__(self) -> str:
        return f"{self._config.env_id} ({self.protocol})"

    def _make(self, seed: int) -> None:
        self._environment = make_environment(self._config, [seed % SEED_LIMIT])
        self._environment.bootstraps = False
        self._is_new, self._is_within, self._following = True, False, None

    def _next_seed(self) -> int:
        """Return a seed for an episode that begins while another is not over."""
        return int(self.np_random.integers(SEED_LIMIT))

    def _next_episode(self) -> NDArray[Any]:
        """Step until an episode has begun: the step after its last one does that, or a no-op."""
        while True:
            with failures_reported(self._config.env_id):
                step = self._environment.step(self._environment.spec.actions.zeros(1))
            if not (step.terminated[0] or step.truncated[0]):
                return step.observations[0]  # type: ignore[no-any-return]


def _observation_space(spec: EnvironmentSpec) -> Box:
    if spec.observation_dtype == "uint8":
        return Box(0, 255, spec.observation_shape, np.uint8)
    return Box(-np.inf, np.inf, spec.observation_shape, np.float32)


def _action_space(spec: ActionSpec) -> gymnasium.Space[Any]:
    """Return the space of the actions as the environment takes them."""
    match spec:
        case DiscreteActions(n, start):
            return Discrete(n, start=start)
        case MultiDiscreteActions(nvec, start):
            shape = spec.space_shape
            starts = np.reshape(start or [0] * len(nvec), shape)
            return MultiDiscrete(np.reshape(nvec, shape), start=starts)
        case MultiBinaryActions():
            return MultiBinary(spec.space_shape)
        case BoxActions(low, high):
            shape = spec.space_shape
            lowest, highest = (np.reshape(side, shape).astype(np.float32) for side in (low, high))
            return Box(lowest, highest, shape, np.float32)
    raise AssertionError(spec)


def _policys(spec: ActionSpec, action: Any) -> NDArray[Any]:
    """Return an environment's action as that of a policy, `[1, *spec.shape]`.

    Raises:
        ValueError: it has another shape, or numbers of another kind.
    """
    given = np.asarray(action)
    if given.size != int(np.prod(spec.shape)):
        raise ValueError(f"action {action!r:.80}: expected one of {spec.describe()}")
    flat = given.reshape(1, *spec.shape).astype(spec.dtype, casting="same_kind")
    match spec:
        case DiscreteActions(_, start) | MultiDiscreteActions(_, start) if start:
            return np.asarray(flat - start, spec.dtype)
    return flat
