"""Gymnasium environments, by id or from a user's factory.

Runs in simulator processes and in the probe. The B Python environments are stepped one after the
other. Spaces that the learner cannot use are refused when the environments are built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments.action_spaces import action_spec
from galamp.environments.base import (
    Environment,
    EnvironmentSpec,
    Transition,
    closing_quietly,
)
from galamp.environments.checks import CheckedEnv, check_observations, check_rewards
from galamp.environments.flattening import Flattening, shown
from galamp.environments.making import how_made, maker
from galamp.environments.observations import Reading, read
from galamp.environments.preprocessing import PreprocessedEnv, Preprocessing
from galamp.environments.protocols import refuse_atari_settings
from galamp.environments.space_seeds import seed_spaces


class GymnasiumEnvironment(Environment):
    """B Gymnasium environments; see `action_spaces` for their actions.

        env --CheckedEnv: checked, flattened--> --PreprocessedEnv--> SyncVectorEnv --> Transition

    Observations that are not uint8 become float32; images are converted to channels first, and
    Dict, Tuple, Discrete, MultiDiscrete and MultiBinary observations to one array.
    """

    shows_progress: ClassVar[bool] = True

    def __init__(
        self,
        env_id: str,
        config: EnvironmentConfig,
        seeds: Sequence[int],
        threads: int,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """Build B environments; `threads` is not used, Python steps one environment at a time.

        Raises:
            UserError: the environment does not exist, its spaces cannot be used, or `config` has
                settings that only Atari has.
        """
        refuse_atari_settings(env_id, config)
        how = Preprocessing.of(config)
        make = maker(env_id, config, how.skip)
        self.num_envs = len(seeds)
        self._seeds = [int(seed) for seed in seeds]

        def build(number: int) -> gymnasium.Env[Any, Any]:
            env = make()
            seed_spaces(env, self._seeds[number])
            progress()
            try:
                return _observed(env, env_id, number, self._seeds[number], progress, how)
            except UserError:
                with closing_quietly(env):
                    raise

        self._vector = SyncVectorEnv(
            [functools.partial(build, number) for number in range(self.num_envs)],
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        try:
            self._reading = _reading(self._vector, config)
            self.spec = _spec(env_id, config, self._vector, self._reading, how)
        except UserError:
            with closing_quietly(self):
                raise
        self._action_dtype = self._vector.single_action_space.dtype
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(self) -> NDArray[Any]:
        """Restart every environment; see `Environment.reset`."""
        observations, _ = self._vector.reset(seed=list(self._seeds))
        self._ended = np.zeros(self.num_envs, np.bool_)
        return self._converted(observations, np.ones(self.num_envs, np.bool_))

    def step(self, actions: NDArray[Any]) -> Transition:
        """Step the environments one after the other; see `Environment.step`."""
        self.spec.actions.check(actions, self.num_envs)
        given = self.spec.actions.to_environment(actions).astype(self._action_dtype, copy=False)
        observations, rewards, terminated, truncated, _ = self._vector.step(given)
        check_rewards(self.spec.env_id, rewards, self._seeds)
        reset, self._ended = self._ended, terminated | truncated
        batch = self._converted(observations, reset)
        return Transition(batch, rewards, terminated, truncated, reset)

    def close(self) -> None:
        """Close every environment; see `Environment.close`."""
        self._vector.close()

    @property
    def single(self) -> gymnasium.Env[Any, Any]:
        """The first of the environments, with its wrappers."""
        return self._vector.envs[0]

    def _converted(self, observations: Any, reset: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the observations for the learner; `reset` [B] bool: they come from `reset()`."""
        given: NDArray[Any] = observations
        if self._reading.channels_last:
            given = np.moveaxis(given, -1, 1)
        with np.errstate(over="ignore"):  # it becomes infinite, which is reported below
            batch = np.ascontiguousarray(given, dtype=self.spec.observation_dtype)
        if given.dtype.kind == "f":  # no other type has NaN, or numbers beyond float32
            check_observations(self.spec.env_id, batch, given, self._seeds, reset)
        return batch


def _observed(
    env: gymnasium.Env[Any, Any],
    env_id: str,
    number: int,
    seed: int,
    progress: Callable[[], object],
    how: Preprocessing,
) -> gymnasium.Env[Any, Any]:
    """Return an environment whose observations are of a Box, checked and preprocessed.

    Raises:
        UserError: they cannot be trained on.
    """
    space = env.observation_space
    flatten = None if isinstance(space, Box) else Flattening(env_id, space)
    checked = CheckedEnv(env, env_id, number, seed, progress, flatten)
    if 0 in (checked.observation_space.shape or ()):
        raise UserError(
            f"{env_id}: observations in the space {shown(space)} hold no number: expected one at "
            "least; correct the space"
        )
    if how == Preprocessing():
        return checked
    return PreprocessedEnv(checked, env_id, how, flatten is not None and flatten.stacks)


def _reading(vector: SyncVectorEnv[Any, Any], config: EnvironmentConfig) -> Reading:
    """Return how observations are read, with all that was done before in its note."""
    env, space = vector.envs[0], vector.single_observation_space
    assert isinstance(space, Box)
    checked = env.env if isinstance(env, PreprocessedEnv) else env
    assert isinstance(checked, CheckedEnv)
    flatten = checked.flatten
    first, notes = flatten is not None and flatten.stacks, [flatten.note if flatten else ""]
    if isinstance(env, PreprocessedEnv):
        first = first or env.channels_first
        notes.append(env.note)
    reading = read(space, config.observation_reading, channels_first=first)
    return reading._replace(note="; ".join(filter(None, (*notes, reading.note))))


def _spec(
    env_id: str,
    config: EnvironmentConfig,
    vector: SyncVectorEnv[Any, Any],
    reading: Reading,
    how: Preprocessing,
) -> EnvironmentSpec:
    actions = action_spec(env_id, vector.single_action_space, config.action_bounds)
    clip = config.clip_rewards is True
    return EnvironmentSpec(
        env_id=env_id,
        observation_shape=reading.shape,
        observation_dtype=reading.dtype,
        actions=actions,
        action_meanings=meanings(actions),
        frames_per_step=how.skip,
        clip_rewards=clip,
        protocol=protocol(config, how.describe()),
        max_episode_steps=_step_limit(vector.envs[0], how.skip),
        observation_scale=reading.scale,
        observation_note=reading.note,
    )


def meanings(actions: ActionSpec) -> tuple[str, ...]:
    """Return a word per discrete action, its number; nothing for others."""
    if not isinstance(actions, DiscreteActions):
        return ()
    return tuple(str(actions.start + number) for number in range(actions.n))


def protocol(config: EnvironmentConfig, done: str = "") -> str:
    """Return the protocol in one line; `done` is what is done to observations, after a comma."""
    clipped, steps = config.clip_rewards is True, config.max_episode_steps
    cut = "" if steps is None else f", cut after {steps} agent steps"
    told = f"gymnasium: rewards {'clipped' if clipped else 'not clipped'}{cut}{done}"
    return told + how_made(config)


def _step_limit(env: gymnasium.Env[Any, Any], skip: int) -> int | None:
    """Return the agent steps, of `skip` frames, after which an episode is cut; None: unknown.

    The limits are those of wrappers and of the environment's spec, in frames.
    """
    limits = [env.spec.max_episode_steps] if env.spec else []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    frames = min((limit for limit in limits if limit is not None), default=None)
    return None if frames is None else -(-frames // skip)
