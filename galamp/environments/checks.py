"""A look at what a Gymnasium environment returns, before anything is done with it.

    user's environment --CheckedLane: form, shape, types--> SyncVectorEnv
        --check_rewards, check_observations: finite?--> Transition

Runs in simulator processes and in the probe. Without it an environment's mistake would be found by
whoever is hurt by it: a vector environment that fills in or casts what does not fit, or a learner
whose parameters are no longer numbers.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)
"""Rewards and observations beyond this are infinite to a learner."""

MAX_SHOWN = 200
"""Characters of a wrong value that are told."""

UNPACKED_OLD = "not enough values to unpack (expected 5, got 4)"
"""What Python says in a wrapper around an environment of the old Gym API."""

PORTED = (
    "derive it from gymnasium.Env with its API, or wrap it in shimmy's GymV21CompatibilityV0 "
    "(package shimmy)"
)


class InvalidDataError(ValueError):
    """What an environment has returned cannot be used.

    The text is the same every time that it returns the like; what differs is in the notes.
    """


class CheckedLane(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One lane, of which only what is of the right form, shape and type gets out."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        env_id: str,
        env_index: int,
        seed: int,
        progress: Callable[[], object],
    ) -> None:
        """Wrap `env`, number `env_index` of its simulator; `progress` is called at its resets."""
        super().__init__(env)
        self._env_id, self._env_index, self._seed, self._progress = (
            env_id,
            env_index,
            seed,
            progress,
        )
        self._shape, self._dtype = env.observation_space.shape, env.observation_space.dtype

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what the environment tells besides is left out, nobody reads it.

        Raises:
            InvalidDataError: the environment has returned something else than it should.
        """
        try:
            returned = self.env.reset(seed=seed, options=options)
        except Exception as error:
            if isinstance(error, TypeError):
                self._refuse_signature(error)
            error.add_note(f"lane {self._env_index} has seed {self._seed}")
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
            error.add_note(f"lane {self._env_index} has seed {self._seed}")
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
        if (
            type(observation) is np.ndarray
            and observation.shape == self._shape
            and observation.dtype == self._dtype
        ):
            return observation
        what = f"observation of lane {self._env_index} from {source}"
        array = _array(observation)
        if observation is None or array is None:
            kind = "None" if observation is None else "no array of numbers"
            self._refuse(f"{what} is {kind}: expected an array", observation)
        if array.shape != self._shape:
            self._refuse(
                f"{what} has shape {list(array.shape)}: its observation_space says "
                f"{list(self._shape or ())}; return that shape, or correct the space",
                observation,
            )
        if not np.can_cast(array.dtype, self._dtype or array.dtype, "same_kind"):
            self._refuse(
                f"{what} has dtype {array.dtype}: its observation_space says {self._dtype}; "
                "return that dtype, or correct the space",
                observation,
            )
        return array

    def _number(self, reward: Any) -> float:
        """Return a reward that is no Python float as one; an array of one number is that number."""
        array = None if reward is None else _array(reward)
        if array is None or array.size != 1 or array.dtype.kind not in "biufO":
            kind = _kind(reward, array)
            self._refuse(f"reward of lane {self._env_index} is {kind}: expected one number", reward)
        try:
            return float(array.item())
        except OverflowError:
            return float("inf")  # a whole number of hundreds of digits; told with all the others
        except (TypeError, ValueError):
            kind = type(array.item()).__name__
            self._refuse(
                f"reward of lane {self._env_index} is a {kind}: expected one number", reward
            )

    def _flag(self, name: str, flag: Any) -> bool:
        """Return what says that an episode is over as a bool; 0 and 1 are such."""
        array = None if flag is None else _array(flag)
        whole = array is not None and array.size == 1 and array.dtype.kind in "biuf"
        if array is None or not whole or array.item() not in (0, 1):
            kind = _kind(flag, array)
            self._refuse(
                f"{name} of lane {self._env_index} is {kind}: expected True or False", flag
            )
        return bool(array.item())

    def _refuse_signature(self, error: TypeError) -> None:
        """Refuse a `reset` that has no `seed` or no `options`, should `error` come from that."""
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
        array = None if returned is None else _array(returned)
        if array is not None and array.shape == self._shape:
            self._refuse_old("reset() returned the observation alone", None)
        self._refuse(
            f"reset() returned {_form(returned)}: expected two values, observation and info",
            returned,
        )

    def _refuse_info(self, returned: Any) -> NoReturn:
        array = _array(returned)
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
    """Raise InvalidDataError; the lane's seed and the value go into a note."""
    error = InvalidDataError(f"{env_id}: {what}")
    error.add_note(f"lane {env_index} has seed {seed}; it returned {_shown(value)}")
    raise error


def check_rewards(env_id: str, rewards: NDArray[np.float64], seeds: Sequence[int]) -> None:
    """Raise InvalidDataError unless `rewards` `[B]` are finite and fit float32."""
    if np.abs(rewards).max() <= LARGEST:
        return
    env_index = int(np.flatnonzero(~(np.abs(rewards) <= LARGEST))[0])
    value = rewards[env_index]
    kind = "nan" if np.isnan(value) else "inf" if np.isinf(value) else "beyond float32"
    what = (
        f"reward of lane {env_index} from step() is {kind}: expected a finite number up to 3.4e38"
    )
    refuse(env_id, what, env_index, seeds[env_index], value)


def check_observations(
    env_id: str,
    batch: NDArray[np.float32],
    given: NDArray[Any],
    seeds: Sequence[int],
    reset: NDArray[np.bool_],
) -> None:
    """Raise InvalidDataError unless `batch` `[B, ...]`, made float32 of `given`, is finite.

    `reset` `[B]` says which lanes come from `reset()`.
    """
    if np.isfinite(batch).all():
        return
    finite = np.isfinite(batch).reshape(len(batch), -1).all(1)
    env_index = int(np.flatnonzero(~finite)[0])
    kind = "nan" if np.isnan(batch[env_index]).any() else "inf or a number beyond float32"
    source = "reset()" if reset[env_index] else "step()"
    what = f"observation of lane {env_index} from {source} holds {kind}: expected finite numbers"
    refuse(env_id, what, env_index, seeds[env_index], given[env_index])


def is_old_gym(env: object) -> bool:
    """Whether something is an environment of the package `gym`, which came before Gymnasium."""
    return any(each.__module__.partition(".")[0] == "gym" for each in type(env).__mro__)


def _unpacks_old(error: Exception) -> bool:
    """Whether a wrapper has stumbled over the four values of an old `step()`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, ValueError) and last.name == "step" and UNPACKED_OLD in str(error)


def _array(value: Any) -> NDArray[Any] | None:
    """Return `value` as an array; None if it is none."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # such as lists of different lengths
        return None


def _kind(value: Any, array: NDArray[Any] | None) -> str:
    """Return in words what stands where one number should."""
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
        return f"what cannot be shown ({type(error).__name__})"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
