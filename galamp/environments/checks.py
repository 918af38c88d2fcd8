"""Checks of the data that a Gymnasium environment returns, before the data is used.

    user's environment --CheckedEnv: form, shape, types--> SyncVectorEnv
        --check_rewards, check_observations: finite?--> Transition

Runs in simulator processes and in the probe. Without the checks an error of an environment would
show late and elsewhere: a vector environment would convert wrong data silently, and a learner's
parameters would become NaN.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from numpy.typing import NDArray

from galamp.environments.flattening import Flattening, NotInSpaceError, as_array, fitted

LARGEST = float(np.finfo(np.float32).max)
"""Largest absolute value of rewards and observations: larger ones are infinite in float32."""

MAX_SHOWN = 200
"""Most characters of a wrong value in a message."""

UNPACKED_OLD = "not enough values to unpack (expected 5, got 4)"
"""Python's error in a wrapper around an environment of the old Gym API."""

PORTED = (
    "derive it from gymnasium.Env with its API, or wrap it in shimmy's GymV21CompatibilityV0 "
    "(package shimmy)"
)


class InvalidDataError(ValueError):
    """An environment has returned invalid data.

    The text is the same for the same kind of error; values and seeds are in the notes.
    """


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment; only results of the right form, shape and type pass this wrapper.

    Attributes:
        flatten: what makes arrays of observations; None if they are arrays.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        env_id: str,
        env_index: int,
        seed: int,
        progress: Callable[[], object],
        flatten: Flattening | None = None,
    ) -> None:
        """Wrap `env`, number `env_index` of its simulator.

        `progress` is called at its resets; `flatten` makes arrays of observations that are none.
        """
        super().__init__(env)
        self._env_id, self._env_index, self._seed, self._progress = (
            env_id,
            env_index,
            seed,
            progress,
        )
        self._shape, self._dtype = env.observation_space.shape, env.observation_space.dtype
        self.flatten = flatten
        if flatten is not None:
            self.observation_space = flatten.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the environment's info is replaced by an empty one, as it is not used.

        Raises:
            InvalidDataError: the environment has returned invalid data.
        """
        try:
            returned = self.env.reset(seed=seed, options=options)
        except Exception as error:
            if isinstance(error, TypeError):
                self._refuse_signature(error)
            error.add_note(f"environment {self._env_index} has seed {self._seed}")
            raise
        pair = isinstance(returned, tuple | list) and len(returned) == 2
        if not pair:
            self._refuse_reset(returned)
        if not (returned[1] is None or isinstance(returned[1], Mapping)):
            self._refuse_info(returned)
        self._progress()
        return self._observation(returned[0], "reset()"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; see `reset`."""
        try:
            returned = self.env.step(action)
        except Exception as error:
            if _unpacks_old(error):
                self._refuse_old("step() returned 4 values", error)
            error.add_note(f"environment {self._env_index} has seed {self._seed}")
            raise
        if not isinstance(returned, tuple | list) or len(returned) != 5:
            self._refuse_step(returned)
        observation, reward, terminated, truncated, _ = returned
        if not isinstance(reward, float):
            reward = self._number(reward)
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        return self._observation(observation, "step()"), reward, terminated, truncated, {}

    def _observation(self, observation: Any, source: str) -> NDArray[Any]:
        shape, dtype = self._shape, self._dtype
        plain = self.flatten is None
        if (
            plain
            and type(observation) is np.ndarray
            and observation.shape == shape
            and observation.dtype == dtype
        ):
            return observation
        try:
            if self.flatten is not None:
                return self.flatten(observation)
            return fitted(observation, shape or (), dtype)
        except NotInSpaceError as error:
            what = f"observation of environment {self._env_index} from {source}{error}"
            self._refuse(what, observation)

    def _number(self, reward: Any) -> float:
        """Return a reward as a Python float; an array of one number is accepted."""
        array = None if reward is None else as_array(reward)
        if array is None or array.size != 1 or array.dtype.kind not in "biufO":
            kind = _kind(reward, array)
            self._refuse(
                f"reward of environment {self._env_index} is {kind}: expected one number", reward
            )
        try:
            return float(array.item())
        except OverflowError:
            return float("inf")  # an integer of hundreds of digits; `check_rewards` refuses it
        except (TypeError, ValueError):
            kind = type(array.item()).__name__
            self._refuse(
                f"reward of environment {self._env_index} is a {kind}: expected one number", reward
            )

    def _flag(self, name: str, flag: Any) -> bool:
        """Return an end-of-episode flag as a bool; 0 and 1 are accepted."""
        array = None if flag is None else as_array(flag)
        whole = array is not None and array.size == 1 and array.dtype.kind in "biuf"
        if array is None or not whole or array.item() not in (0, 1):
            kind = _kind(flag, array)
            self._refuse(
                f"{name} of environment {self._env_index} is {kind}: expected True or False", flag
            )
        return bool(array.item())

    def _refuse_signature(self, error: TypeError) -> None:
        """Refuse a `reset` without `seed` or `options`, if that is the cause of `error`."""
        try:
            known = inspect.signature(self.unwrapped.reset).parameters
        except (TypeError, ValueError):
            return
        if any(each.kind is each.VAR_KEYWORD for each in known.values()):
            return
        if "seed" not in known:
            self._refuse_old("reset() takes no seed", error)
        if "options" not in known:
            raise InvalidDataError(
                f"{self._env_id}: reset() takes no options: expected "
                "reset(self, *, seed=None, options=None)"
            ) from error

    def _refuse_reset(self, returned: Any) -> NoReturn:
        array = None if returned is None else as_array(returned)
        if array is not None and array.shape == self._shape:
            self._refuse_old("reset() returned the observation alone", None)
        self._refuse(
            f"reset() returned {_form(returned)}: expected two values, observation and info",
            returned,
        )

    def _refuse_info(self, returned: Any) -> NoReturn:
        array = as_array(returned)
        if array is not None and array.shape == self._shape:  # an observation of two numbers
            self._refuse_old("reset() returned the observation alone", None)
        kind = type(returned[1]).__name__
        self._refuse(f"reset() returned a {kind} as info: expected a dict", returned)

    def _refuse_step(self, returned: Any) -> NoReturn:
        if isinstance(returned, tuple | list) and len(returned) == 4:
            self._refuse_old("step() returned 4 values", None)
        self._refuse(
            f"step() returned {_form(returned)}: expected five values, observation, reward, "
            "terminated, truncated and info",
            returned,
        )

    def _refuse_old(self, what: str, cause: Exception | None) -> NoReturn:
        raise InvalidDataError(
            f"{self._env_id}: {what}: this is the old Gym API; {PORTED}"
        ) from cause

    def _refuse(self, what: str, value: Any) -> NoReturn:
        refuse(self._env_id, what, self._env_index, self._seed, value)


def refuse(env_id: str, what: str, env_index: int, seed: int, value: Any) -> NoReturn:
    """Raise InvalidDataError; the environment's seed and the value go into a note."""
    error = InvalidDataError(f"{env_id}: {what}")
    error.add_note(f"environment {env_index} has seed {seed}; it returned {_shown(value)}")
    raise error


def check_rewards(env_id: str, rewards: NDArray[np.float64], seeds: Sequence[int]) -> None:
    """Raise InvalidDataError unless `rewards` `[B]` are finite and fit float32."""
    if np.abs(rewards).max() <= LARGEST:
        return
    env_index = int(np.flatnonzero(~(np.abs(rewards) <= LARGEST))[0])
    value = rewards[env_index]
    kind = "nan" if np.isnan(value) else "inf" if np.isinf(value) else "beyond float32"
    what = (
        f"reward of environment {env_index} from step() is {kind}: expected a finite number up to "
        "3.4e38"
    )
    refuse(env_id, what, env_index, seeds[env_index], value)


def check_observations(
    env_id: str,
    batch: NDArray[np.float32],
    given: NDArray[Any],
    seeds: Sequence[int],
    reset: NDArray[np.bool_],
) -> None:
    """Raise InvalidDataError unless `batch` `[B, ...]`, `given` as float32, is finite.

    `reset` `[B]` bool: the environments whose observation comes from `reset()`.
    """
    if np.isfinite(batch).all():
        return
    finite = np.isfinite(batch).reshape(len(batch), -1).all(1)
    env_index = int(np.flatnonzero(~finite)[0])
    kind = "nan" if np.isnan(batch[env_index]).any() else "inf or a number beyond float32"
    source = "reset()" if reset[env_index] else "step()"
    what = (
        f"observation of environment {env_index} from {source} holds {kind}: expected finite "
        "numbers"
    )
    refuse(env_id, what, env_index, seeds[env_index], given[env_index])


def is_old_gym(env: object) -> bool:
    """Whether an object is an environment of the package `gym`, the predecessor of Gymnasium."""
    return any(each.__module__.partition(".")[0] == "gym" for each in type(env).__mro__)


def _unpacks_old(error: Exception) -> bool:
    """Whether a wrapper has failed to unpack the four values of an old `step()`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, ValueError) and last.name == "step" and UNPACKED_OLD in str(error)


def _kind(value: Any, array: NDArray[Any] | None) -> str:
    """Describe a value that should be one number."""
    if value is None:
        return "None"
    if array is not None and array.size != 1:
        return f"an array of {array.size} numbers"
    if isinstance(value, bool | int | float | np.number):
        return str(value)
    return f"a {type(value).__name__}"


def _form(returned: Any) -> str:
    if isinstance(returned, tuple | list):
        return f"{len(returned)} values"
    return "None" if returned is None else f"one {type(returned).__name__}"


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception as error:
        return f"a value that cannot be shown ({type(error).__name__})"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
