"""Gymnasium environments, by id or from a factory of the user's.

Runs in simulator processes and in the probe, one Python environment per lane, stepped in turn.
Spaces that the learner cannot use are refused when the lanes are built.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from galamp.config import EnvironmentConfig
from galamp.environments.base import Environment, EnvironmentSpec, Transition, check_actions
from galamp.environments.protocols import SETTINGS
from galamp.errors import UserError, did_you_mean


class GymnasiumEnvironment(Environment):
    """B Gymnasium environments with Box observations and Discrete actions.

    Observations that are not uint8 become float32; images with channels last get them first.
    """

    def __init__(
        self, env_id: str, config: EnvironmentConfig, seeds: Sequence[int], threads: int
    ) -> None:
        """Build B environments; `threads` is not used, Python steps one lane at a time.

        Raises:
            UserError: there is no such environment, its spaces cannot be used, or `config` has
                settings that only Atari knows.
        """
        _refuse_atari_settings(env_id, config)
        make = _maker(env_id, config.max_episode_steps)
        self.num_envs = len(seeds)
        self._seeds = [int(seed) for seed in seeds]
        try:
            self._vector = SyncVectorEnv(
                [make] * self.num_envs, autoreset_mode=AutoresetMode.NEXT_STEP
            )
        except gymnasium.error.Error as error:
            raise UserError(f"{env_id}: {' '.join(str(error).split())}") from error
        try:
            self.spec = _spec(env_id, config, self._vector)
        except UserError:
            self.close()
            raise
        shape = self._vector.single_observation_space.shape
        self._channels_last = shape is not None and _channels_last(shape)
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(self) -> NDArray[Any]:
        """Begin every lane afresh; see `Environment.reset`."""
        observations, _ = self._vector.reset(seed=list(self._seeds))
        self._ended = np.zeros(self.num_envs, np.bool_)
        return self._converted(observations)

    def step(self, actions: NDArray[np.int64]) -> Transition:
        """Step the lanes one after another; see `Environment.step`."""
        check_actions(actions, self.num_envs, self.spec.num_actions)
        observations, rewards, terminated, truncated, _ = self._vector.step(actions)
        reset, self._ended = self._ended, terminated | truncated
        return Transition(
            self._converted(observations), rewards.astype(np.float32), terminated, truncated, reset
        )

    def close(self) -> None:
        """Close every lane; see `Environment.close`."""
        self._vector.close()

    def _converted(self, observations: Any) -> NDArray[Any]:
        batch: NDArray[Any] = observations
        if self._channels_last:
            batch = np.moveaxis(batch, -1, 1)
        return np.ascontiguousarray(batch, dtype=self.spec.observation_dtype)


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] < min(shape[:2])


def _refuse_atari_settings(env_id: str, config: EnvironmentConfig) -> None:
    """Raise UserError for a setting that would be silently ignored.

    Two settings mean something everywhere: rewards can be clipped in any environment, and where
    there are no lives, `life_loss_ends` False (as evaluation asks for) holds already.
    """
    given = [n for n in SETTINGS if n != "clip_rewards" and getattr(config, n) is not None]
    if config.life_loss_ends is False:
        given.remove("life_loss_ends")
    if config.protocol != EnvironmentConfig.protocol:
        given.append("protocol")
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"{flags}: only for Atari games, and {env_id} is none: leave it out")


def _maker(env_id: str, max_steps: int | None) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Return a function without arguments that builds one lane, cut after `max_steps` steps.

    A limit of the environment's own holds as well.
    """
    build = _builder(env_id)
    if max_steps is None:
        return build
    return lambda: gymnasium.wrappers.TimeLimit(build(), max_steps)


def own_step_limit(env_id: str) -> int | None:
    """Return after how many agent steps an environment cuts an episode of itself, if it says so.

    A factory's environment is built to be asked.
    """
    if ":" not in env_id:
        return gymnasium.spec(env_id).max_episode_steps
    with contextlib.closing(_builder(env_id)()) as env:
        return env.spec.max_episode_steps if env.spec else None


def _builder(env_id: str) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Return a function without arguments that builds one lane as it is."""
    if ":" not in env_id:
        return lambda: gymnasium.make(env_id, disable_env_checker=True)
    factory = _imported(env_id)

    def make() -> gymnasium.Env[Any, Any]:
        env = factory()
        if not isinstance(env, gymnasium.Env):
            raise UserError(
                f"{env_id}: expected a function that returns a gymnasium.Env, "
                f"it returned {type(env).__name__}"
            )
        return env

    return make


def _imported(env_id: str) -> Callable[[], Any]:
    """Import the factory that `package.module:factory` names.

    The working directory is searched too, as for a script that lies there.
    """
    module_name, _, name = env_id.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{env_id}: cannot import {module_name} ({error}): expected package.module:factory"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        near = did_you_mean(name, [known for known in dir(module) if known[0] != "_"])
        raise UserError(f"{env_id}: {module_name} has no function {name!r}{near}")
    return factory  # type: ignore[no-any-return]


def _spec(
    env_id: str, config: EnvironmentConfig, vector: SyncVectorEnv[Any, Any]
) -> EnvironmentSpec:
    observations, actions = vector.single_observation_space, vector.single_action_space
    if not isinstance(observations, Box):
        raise UserError(f"{env_id}: expected observations in a Box space, got {observations}")
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise UserError(f"{env_id}: expected actions Discrete(n) from 0, got {actions}")
    shape = observations.shape
    count = int(actions.n)
    clip = config.clip_rewards is True
    return EnvironmentSpec(
        env_id=env_id,
        observation_shape=(shape[2], *shape[:2]) if _channels_last(shape) else shape,
        observation_dtype="uint8" if observations.dtype == np.uint8 else "float32",
        num_actions=count,
        action_meanings=tuple(str(action) for action in range(count)),
        frames_per_step=1,
        clip_rewards=clip,
        protocol=_protocol(clip, config.max_episode_steps),
    )


def _protocol(clip: bool, max_steps: int | None) -> str:
    cut = "" if max_steps is None else f", cut after {max_steps} agent steps"
    return f"gymnasium: rewards {'clipped' if clip else 'not clipped'}{cut}"
