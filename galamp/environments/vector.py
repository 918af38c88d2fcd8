"""Environments that are their own vector environment: all of a simulator's are one object.

    VectorEnv.step(actions [B]) --batches, checked--> Transition

Runs in simulator processes and in the probe. Nothing here loops over environments: what a step
costs is up to the vector environment, be it Gymnasium's, ale-py's, EnvPool's or one of the user's.

Those that reset in the next step (NEXT_STEP) are as `base` has it. Those that reset in the same
step (SAME_STEP) return the first observation of the next episode at once. Where an episode
terminates, that is taken: no step is lost. Where it was cut, its last observation, from the info
`final_obs`, is shown instead, to bootstrap from; the next step is taken all the same, with an
action that the policy chose on seeing it. That step counts in the score, but is not learned from:

    step          t - 1     t             t + 1      t + 2
    returned      ...       the first     second     third
    observation   ...       the last one  second     third
    truncated     False     True          False      False
    reset         False     False         True       False
    reward        r         r             r          r
    ended         False     True          False      False
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments.action_spaces import action_spec
from galamp.environments.base import Environment, EnvironmentSpec, Transition, closing_quietly
from galamp.environments.checks import InvalidDataError, check_observations, check_rewards
from galamp.environments.flattening import NotInSpaceError, as_array, fitted, shown
from galamp.environments.gymnasium import meanings, protocol
from galamp.environments.names import ATARI
from galamp.environments.observations import read
from galamp.environments.preprocessing import Preprocessing
from galamp.environments.protocols import refuse_atari_settings
from galamp.environments.space_seeds import seed_vector_spaces
from galamp.environments.vector_making import make_vector, reset_seed

FINAL = ("final_obs", "final_observation")
"""Names of the last observations in the info of a step; the latter before Gymnasium 1.0."""


class VectorEnvironment(Environment):
    """B environments that one vector environment steps."""

    shows_progress: ClassVar[bool] = True

    def __init__(
        self,
        env_id: str,
        config: EnvironmentConfig,
        seeds: Sequence[int],
        threads: int,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """Build all environments at once.

        Raises:
            UserError: there is no such vector environment, or it cannot be trained in.
        """
        _refuse_settings(env_id, config)
        self.num_envs, self._seeds, self._progress = len(seeds), list(map(int, seeds)), progress
        self._vector = make_vector(env_id, config, self._seeds, threads)
        seed_vector_spaces(self._vector, self._seeds)
        progress()
        try:
            self._at_once = _resets_at_once(env_id, self._vector)
            self.spec = self._described(env_id, config)
        except UserError:
            with closing_quietly(self):
                raise
        self._action_dtype = self._vector.single_action_space.dtype
        self._none = np.zeros(self.num_envs, np.bool_)
        self._pending = self._none

    def reset(self) -> NDArray[Any]:
        """Restart every environment; see `Environment.reset`."""
        self._pending = self._none
        seed = reset_seed(self._vector, self._seeds)
        returned = self._vector.reset(**({} if seed is None else {"seed": seed}))
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            self._refuse("reset()", "two values, observations and infos")
        self._progress()
        return self._observations(returned[0], "reset()", ~self._none)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Step all environments by one call; see `Environment.step`."""
        self.spec.actions.check(actions, self.num_envs)
        given = self.spec.actions.to_environment(actions).astype(self._action_dtype, copy=False)
        returned = self._vector.step(given)
        if not isinstance(returned, tuple | list) or len(returned) != 5:
            self._refuse("step()", "five values: observations, rewards, ends, cuts and infos")
        rewards = self._numbers("rewards", returned[1]).astype(np.float64)
        check_rewards(self.spec.env_id, rewards, self._seeds)
        terminated = self._numbers("terminations", returned[2]).astype(np.bool_)
        truncated = self._numbers("truncations", returned[3]).astype(np.bool_)
        if self._at_once:
            return self._transition_at_once(rewards, terminated, truncated, *returned[::4])
        reset, self._pending = self._pending, terminated | truncated
        batch = self._observations(returned[0], "step()", reset)
        rewards[reset] = 0.0
        return Transition(batch, rewards, terminated & ~reset, truncated & ~reset, reset)

    def close(self) -> None:
        """Close the vector environment; see `Environment.close`."""
        self._vector.close()

    def _transition_at_once(
        self,
        rewards: NDArray[np.float64],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observations: Any,
        info: Any,
    ) -> Transition:
        """Return the step of environments that reset in the same step; see the module."""
        reset, ended = self._pending, terminated | truncated
        batch = self._observations(observations, "step()", ended)
        cut = truncated & ~terminated & ~reset if self.bootstraps else self._none
        if cut.any():
            batch[cut] = self._last(info, cut)
        self._pending = cut
        if self.bootstraps:
            terminated, truncated = terminated & ~reset, truncated & ~reset
        return Transition(
            batch, rewards, terminated, truncated, reset, ended, (ended & ~cut) | reset
        )

    def _last(self, info: Any, cut: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the last observations of the episodes that were `cut` [B], one for each."""
        final = next((info[name] for name in FINAL if name in info), None)
        if final is None:
            raise InvalidDataError(
                f"{self.spec.env_id}: an episode was truncated, and the info of that step has no "
                f"{FINAL[0]}: expected the last observations there, as it resets in the same step"
            )
        # Where not all episodes have ended, there may be None for the others.
        rows = [final[index] for index in np.flatnonzero(cut)]
        if any(row is None for row in rows):
            raise InvalidDataError(
                f"{self.spec.env_id}: an episode was truncated, and info['{FINAL[0]}'] of that "
                "step holds None for it: expected its last observation"
            )
        chosen = np.stack(rows)
        last = self._observations(chosen, f"info['{FINAL[0]}']", cut, len(chosen))
        if not np.isfinite(last).all():
            raise InvalidDataError(
                f"{self.spec.env_id}: info['{FINAL[0]}'] holds nan, inf or a number beyond "
                "float32: expected finite numbers"
            )
        return last

    def _observations(
        self, given: Any, source: str, reset: NDArray[np.bool_], count: int | None = None
    ) -> NDArray[Any]:
        """Return a batch of observations, of all or of `count` environments, as a new array."""
        space = self._vector.single_observation_space
        shape = (self.num_envs if count is None else count, *(space.shape or ()))
        try:
            batch = fitted(given, shape, space.dtype, f"batch of observations from {source}")
        except NotInSpaceError as error:
            raise InvalidDataError(f"{self.spec.env_id}: {error}") from None
        if self._reading.channels_last:
            batch = np.moveaxis(batch, -1, 1)
        with np.errstate(over="ignore"):  # it becomes infinite, which is reported below
            made = np.array(batch, self.spec.observation_dtype, order="C")
        if batch.dtype.kind == "f" and count is None:
            check_observations(self.spec.env_id, made, batch, self._seeds, reset)
        return made

    def _numbers(self, name: str, value: Any) -> NDArray[Any]:
        """Return one number per environment as an array [B]."""
        array = None if value is None else as_array(value)
        if array is None or array.shape != (self.num_envs,) or array.dtype.kind not in "biuf":
            form = "nothing" if array is None else f"an array {list(array.shape)} of {array.dtype}"
            raise InvalidDataError(
                f"{self.spec.env_id}: {name} from step() are {form}: expected a number per "
                f"environment, [{self.num_envs}]"
            )
        return array

    def _refuse(self, what: str, expected: str) -> NoReturn:
        raise InvalidDataError(
            f"{self.spec.env_id}: {what} of the vector environment: expected {expected}"
        )

    def _described(self, env_id: str, config: EnvironmentConfig) -> EnvironmentSpec:
        """Return the spec, after a look at the spaces."""
        space = self._vector.single_observation_space
        if not isinstance(space, Box) or 0 in space.shape:
            raise UserError(
                f"{env_id}: observations in the space {shown(space)} cannot be trained on from a "
                "vector environment: expected a Box; flatten them there, as by --wrapper "
                "gymnasium.wrappers.vector:FlattenObservation"
            )
        self._reading = read(space, config.observation_reading)
        actions = action_spec(env_id, self._vector.single_action_space, config.action_bounds)
        return EnvironmentSpec(
            env_id=env_id,
            observation_shape=self._reading.shape,
            observation_dtype=self._reading.dtype,
            actions=actions,
            action_meanings=meanings(actions),
            frames_per_step=1,
            clip_rewards=config.clip_rewards is True,
            protocol=protocol(config),
            max_episode_steps=_step_limit(self._vector),
            observation_scale=self._reading.scale,
            observation_note=self._reading.note,
        )


def _refuse_settings(env_id: str, config: EnvironmentConfig) -> None:
    """Raise UserError for settings that would be silently ignored."""
    if env_id.startswith(ATARI):
        raise UserError(f"--vector: {env_id} is stepped all at once in any case: leave it out")
    refuse_atari_settings(env_id, config)
    how = Preprocessing.of(config)
    asked = {
        "--frame-skip": how.skip > 1,
        "--frame-stack": how.stack > 1,
        "--resize": how.size is not None,
        "--grayscale": how.grayscale,
    }
    flags = ", ".join(flag for flag, given in asked.items() if given)
    if flags:
        raise UserError(
            f"{flags}: not for vector environments, which have many images at once: do it in the "
            "factory, or by a --wrapper from gymnasium.wrappers.vector"
        )


def _resets_at_once(env_id: str, vector: VectorEnv[Any, Any, Any]) -> bool:
    """Whether episodes begin in the step that ended the last one, and not in the next.

    Raises:
        UserError: it does not reset by itself, or does not say how.
    """
    said = vector.metadata.get("autoreset_mode")
    modes = {mode.value: mode for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)}
    mode = said if isinstance(said, AutoresetMode) else modes.get(str(said))
    if mode not in modes.values():
        raise UserError(
            f"{env_id}: the vector environment's metadata['autoreset_mode'] is {said}: expected "
            "gymnasium.vector.AutoresetMode.NEXT_STEP or SAME_STEP, as it does"
        )
    return mode is AutoresetMode.SAME_STEP


def _step_limit(vector: VectorEnv[Any, Any, Any]) -> int | None:
    """Return the agent steps after which episodes are cut; None if the environment says nothing."""
    spec = getattr(vector, "spec", None)
    kwargs = getattr(spec, "kwargs", None) or {}
    limits = (kwargs.get("max_episode_steps"), getattr(spec, "max_episode_steps", None))
    return next((int(limit) for limit in limits if limit is not None), None)
