"""Base class of environments: a spec, and B environments that are stepped together.

Runs in simulator processes, in evaluation, and in the probe process. Actions come in; one
`Transition` of B environments comes out per agent step. Nothing here imports torch or an emulator.

Environments reset in the next step (Gymnasium's NEXT_STEP autoreset; `vector` says what those do
that reset at once). If step t ends an episode, its observation is the true last one of that
episode, so a truncated step can be bootstrapped from it. Step t + 1 then ignores its action and
only starts the next episode:

    step          t - 1     t           t + 1       t + 2
    observation   ...       the last    the first   the second
    truncated     False     True        False       False
    reset         False     False       True        False
    reward        r         r           0           r

If an episode ends by itself on the same step on which it would be cut, it counts as terminated, not
truncated. In Atari the same applies to a life that is lost on that step, if a lost life ends the
return: step t is terminated and not truncated, the return ends there, and step t + 1 is still a
reset. Gymnasium environments may set both flags on such a step: terminated wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from galamp.core.action_kinds import action_spec_from_dict
from galamp.core.action_spec import ActionSpec, DiscreteActions


@dataclass(frozen=True)
class EnvironmentSpec:
    """Spec of an environment, for the network, the learner and the reader of results.

    Attributes:
        env_id: canonical name: `ALE/Breakout-v5`, `CartPole-v1`, `package:EnvId-v0` or
            `package.module:factory`.
        observation_shape: shape of one environment's observation; images have channels first.
        observation_dtype: numpy name, `uint8` or `float32`.
        actions: the actions that it takes.
        action_meanings: one word per discrete action, its number if no name is known; else empty.
        frames_per_step: frames per agent step: the frame skip.
        clip_rewards: whether the learner trains on rewards clipped to [-1, 1].
        protocol: the evaluation protocol in one printable line.
        max_episode_steps: agent steps after which an episode is cut; None if unknown.
        observation_scale: factor that brings observations to the unit interval; None: 1/255 for
            `uint8`, 1 for `float32`.
        observation_note: how observations are made of the environment's own, in one printable
            line; empty where they are taken as they are.
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    actions: ActionSpec
    action_meanings: tuple[str, ...]
    frames_per_step: int
    clip_rewards: bool
    protocol: str
    max_episode_steps: int | None = None
    observation_scale: float | None = None
    observation_note: str = ""

    @property
    def scale(self) -> float:
        """Factor of observations, also where the spec leaves it to their type."""
        if self.observation_scale is not None:
            return self.observation_scale
        return 1 / 255 if self.observation_dtype == "uint8" else 1.0

    @property
    def num_actions(self) -> int:
        """Number of discrete actions.

        Raises:
            TypeError: the actions are of another kind.
        """
        if not isinstance(self.actions, DiscreteActions):
            raise TypeError(f"{self.env_id}: {self.actions.describe()} have no number")
        return self.actions.n

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        values = dataclasses.asdict(self) | {"actions": self.actions.to_dict()}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvironmentSpec:
        """Build a spec from its JSON form."""
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**fields | {"actions": action_spec_from_dict(values["actions"])})


@dataclass(frozen=True, eq=False)
class Transition:
    """Transition: one agent step of B environments.

    Attributes:
        observations: `[B, *observation_shape]`, owned by the receiver: later steps do not change
            it.
        rewards: `[B]` float64, the true rewards of the environment, never clipped; each is finite
            and fits float32, the type for training.
        terminated: `[B]` bool, ends the return for training: the game is over, or a life was lost
            and the protocol ends the return then. No reset follows a lost life.
        truncated: `[B]` bool, the episode was cut: bootstrap from the observation.
        reset: `[B]` bool, the step ignored its action and only started a new episode: its reward is
            0, and it must not be trained on.
        ended: `[B]` bool, the episode is complete with this step; None: it is at the next reset.
            Given by environments that reset at once. A reward of theirs counts at a `reset`, too.
        first: `[B]` bool, the observation is the first that is seen of an episode; None: `reset`.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    reset: NDArray[np.bool_]
    ended: NDArray[np.bool_] | None = None
    first: NDArray[np.bool_] | None = None

    @property
    def begins(self) -> NDArray[np.bool_]:
        """Where what a policy remembers ends: the observation is the first of an episode, `[B]`."""
        return self.reset if self.first is None else self.first


class Environment(ABC):
    """B environments of one game; each depends only on its own seed and actions."""

    spec: EnvironmentSpec
    num_envs: int
    shows_progress: ClassVar[bool] = False
    """Whether the class accepts `progress`, and calls it for every environment made or reset."""
    bootstraps: bool = True
    """Whether a truncated step must show the last observation of its episode. Evaluation needs none
    and sets it to False: environments that reset at once then show the first of the next."""

    @abstractmethod
    def reset(self) -> NDArray[Any]:
        """Restart every environment from its seed; return the observations `[B, *shape]`."""

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> Transition:
        """Advance every environment by one agent step.

        Args:
            actions: a policy's, `[B, *spec.actions.shape]`, see `ActionSpec`.

        Raises:
            ValueError: `actions` has a wrong shape, type or range; no environment was advanced.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the environments; to close twice is allowed, to step after a close is not."""


class Closable(Protocol):
    """Anything that is closed."""

    def close(self) -> object:
        """Free what it holds."""


@contextlib.contextmanager
def closing_quietly(environment: Closable) -> Iterator[None]:
    """Close `environment` after the block; an exception of `close` is printed, and ignored."""
    try:
        yield
    finally:
        try:
            environment.close()
        except Exception:
            traceback.print_exc()


@dataclass(frozen=True)
class Episode:
    """Finished episode: its environment, its true return, and its length in agent steps."""

    env_index: int
    ret: float
    length: int


class EpisodeCounter:
    """Counts the true returns and lengths of episodes in B environments.

    An episode is complete when the game has ended, not when a life was lost. Only the following
    reset step shows this for certain, so an episode is returned at that step. The reset step itself
    belongs to no episode.
    """

    def __init__(self, num_envs: int) -> None:
        """Start with `num_envs` environments, all at the start of an episode."""
        self._returns = np.zeros(num_envs, np.float64)
        self._steps = 0
        self._starts: NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def update(self, transition: Transition) -> list[Episode]:
        """Count one agent step of all environments; return the completed episodes, by env_index."""
        if transition.ended is not None:
            return self._at_once(transition.rewards, transition.ended)
        finished = []
        if transition.reset.any():
            for env_index in np.flatnonzero(transition.reset).tolist():
                length = self._steps - int(self._starts[env_index])
                finished.append(Episode(env_index, float(self._returns[env_index]), length))
            self._returns[transition.reset] = 0.0
            self._starts[transition.reset] = self._steps + 1
        self._returns += transition.rewards  # 0 where an environment was reset
        self._steps += 1
        return finished

    def _at_once(self, rewards: NDArray[np.float64], ended: NDArray[np.bool_]) -> list[Episode]:
        """Count a step of environments that reset at once: none of them is a reset alone."""
        self._returns += rewards
        self._steps += 1
        finished = [
            Episode(index, float(self._returns[index]), self._steps - int(self._starts[index]))
            for index in np.flatnonzero(ended).tolist()
        ]
        self._returns[ended] = 0.0
        self._starts[ended] = self._steps
        return finished
