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

from galamp.core import user_code
from galamp.core.action_spec import ActionSpec, DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError, did_you_mean
from galamp.environments.action_spaces import action_spec
from galamp.environments.base import (
    Environment,
    EnvironmentSpec,
    Transition,
    closing_quietly,
)
from galamp.environments.checks import (
    PORTED,
    CheckedEnv,
    check_observations,
    check_rewards,
    is_old_gym,
)
from galamp.environments.flattening import Flattening, shown
from galamp.environments.observations import Reading, read
from galamp.environments.preprocessing import PreprocessedEnv, Preprocessing
from galamp.environments.protocols import SETTINGS

NAMES = "package.module:factory or package:EnvId-v0"

FOR_ALL = ("clip_rewards", "frame_skip", "frame_stack")
"""Settings of Atari's protocols that any environment can have."""

Maker = Callable[[], Any]
"""Builds one environment; the result of a user's factory is not checked yet."""


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
        _refuse_atari_settings(env_id, config)
        how = Preprocessing.of(config)
        make = _maker(env_id, config.max_episode_steps, how.skip)
        self.num_envs = len(seeds)
        self._seeds = [int(seed) for seed in seeds]

        def build(number: int) -> gymnasium.Env[Any, Any]:
            env = _checked(env_id, make())
            # Environments also sample from their spaces, which Gymnasium seeds from the clock.
            env.action_space.seed(self._seeds[number])
            env.observation_space.seed(self._seeds[number])
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


def _refuse_atari_settings(env_id: str, config: EnvironmentConfig) -> None:
    """Raise UserError for a setting that would be silently ignored.

    Some Atari settings are allowed everywhere: those `FOR_ALL`, and `life_loss_ends` False
    (evaluation sets it), which is true of any environment without lives.
    """
    given = [n for n in SETTINGS if n not in FOR_ALL and getattr(config, n) is not None]
    if config.life_loss_ends is False:
        given.remove("life_loss_ends")
    if config.protocol != EnvironmentConfig.protocol:
        given.append("protocol")
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        instead = "leave it out"
        if "max_frames" in given:
            instead += "; --max-episode-steps cuts episodes in any environment, by agent steps"
        raise UserError(f"{flags}: only for Atari games, and {env_id} is none: {instead}")


def _maker(env_id: str, max_steps: int | None, skip: int) -> Maker:
    """Return a function without arguments that builds one environment.

    Its episodes are cut after `max_steps` agent steps of `skip` frames, and by the environment's
    own limit.
    """
    build = _builder(env_id)
    if max_steps is None:
        return build
    return lambda: TimeLimit(_checked(env_id, build()), max_steps * skip)


def _builder(env_id: str) -> Maker:
    """Return a function without arguments that builds one environment without a step limit.

    `module:name` is a factory in that module if it exists, else an id that the import of the module
    has registered, as in Gymnasium.
    """
    module_name, colon, name = env_id.partition(":")
    if not colon:
        return _maker_by_id(env_id, env_id)
    module = user_code.imported(env_id, module_name, NAMES)
    factory = user_code.attribute(module, name)
    if callable(factory):
        return factory  # type: ignore[no-any-return]
    if name in gymnasium.registry:
        return _maker_by_id(env_id, name)
    user_code.refuse_namesake(env_id, module_name)
    if all(map(str.isidentifier, name.split("."))):
        near = did_you_mean(name, user_code.callables(module), cutoff=user_code.NEAR_ENOUGH)
        raise UserError(
            f"{env_id}: {module_name} has no function {name!r}{near}, and its import has not "
            "registered an environment of that name"
        )
    near = did_you_mean(name, gymnasium.registry, cutoff=user_code.NEAR_ENOUGH)
    raise UserError(f"{env_id}: importing {module_name} has registered no environment {name}{near}")


def _maker_by_id(env_id: str, name: str) -> Maker:
    """Return a function that builds the environment that is registered as `name`."""

    def make() -> Any:
        try:
            return gymnasium.make(name, disable_env_checker=True)
        except gymnasium.error.Error as error:
            raise UserError(f"{env_id}: {' '.join(str(error).split())}") from error
        except TypeError as error:
            if str(error).startswith("Gym is incompatible with Gymnasium"):
                raise UserError(_old_gym(env_id)) from error
            raise

    return make


def _checked(env_id: str, env: Any) -> gymnasium.Env[Any, Any]:
    """Return `env`, if it is a Gymnasium environment.

    Raises:
        UserError: it is not.
    """
    if not isinstance(env, gymnasium.Env):
        if is_old_gym(env):
            raise UserError(_old_gym(env_id))
        raise UserError(
            f"{env_id}: expected a function that returns a gymnasium.Env, "
            f"it returned {type(env).__name__}"
        )
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if space is None:
            raise UserError(f"{env_id}: the environment has no {name}: set it in its __init__")
        if not isinstance(space, gymnasium.Space):
            kind = f"{type(space).__module__}.{type(space).__name__}"
            raise UserError(f"{env_id}: {name} is a {kind}: expected one of gymnasium.spaces")
    return env


def _old_gym(env_id: str) -> str:
    return f"{env_id}: the environment is one of the old Gym API (package gym): {PORTED}"


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
        action_meanings=_meanings(actions),
        frames_per_step=how.skip,
        clip_rewards=clip,
        protocol=_protocol(clip, config.max_episode_steps, how),
        max_episode_steps=_step_limit(vector.envs[0], how.skip),
        observation_scale=reading.scale,
        observation_note=reading.note,
    )


def _meanings(actions: ActionSpec) -> tuple[str, ...]:
    if not isinstance(actions, DiscreteActions):
        return ()
    return tuple(str(actions.start + number) for number in range(actions.n))


def _protocol(clip: bool, max_steps: int | None, how: Preprocessing) -> str:
    cut = "" if max_steps is None else f", cut after {max_steps} agent steps"
    return f"gymnasium: rewards {'clipped' if clip else 'not clipped'}{cut}{how.describe()}"


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
