"""What every environment offers its simulator: a spec, and B lanes that are stepped together.

Runs in simulator processes, in evaluation, and in the throw-away probe. Actions flow in; one
`Transition` of B lanes flows out per agent step. Nothing here imports torch or an emulator.

Every environment resets itself one step late, the same way. Let step t end an episode. Its
observation is that episode's true last one, so a truncated step can be bootstrapped from it. Step
t + 1 then ignores its action and only begins the next episode:

    step          t - 1     t           t + 1       t + 2
    observation   ...       the last    the first   the second
    truncated     False     True        False       False
    reset         False     False       True        False
    reward        r         r           0           r

An episode that ends by itself on the very step on which it would be cut is not cut: it counts as
terminated. The same holds in Atari for a life that is lost on that step, where a lost life ends the
return: step t is terminated and not truncated, the return ends there, and step t + 1 is a reset all
the same. Gymnasium's environments may set both flags on such a step: terminated wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the network, the learner and a reader of the results must know of an environment.

    Attributes:
        env_id: canonical name: `ALE/Breakout-v5`, `CartPole-v1`, `package:EnvId-v0` or
            `package.module:factory`.
        observation_shape: shape of one lane's observation; images have their channels first.
        observation_dtype: numpy name, `uint8` or `float32`.
        num_actions: actions are the whole numbers from 0 to `num_actions - 1`.
        action_meanings: one word per action; its number where nothing better is known.
        frames_per_step: emulator frames per agent step; 1 outside Atari.
        clip_rewards: whether the learner trains on rewards clipped to [-1, 1].
        protocol: the evaluation protocol in one printable line.
        max_episode_steps: an episode is cut after so many agent steps; None where that is unknown.
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    action_meanings: tuple[str, ...]
    frames_per_step: int
    clip_rewards: bool
    protocol: str
    max_episode_steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvironmentSpec:
        """Build a spec from its JSON form."""
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class Transition:
    """One agent step of B lanes.

    Attributes:
        observations: `[B, *observation_shape]`, owned by the receiver: later steps leave it alone.
        rewards: `[B]` float64, the true rewards as the environment gave them, never clipped; each
            is finite and fits float32, in which it is learned from.
        terminated: `[B]` bool, ends the return for training: the game is over, or a life was lost
            where the protocol says so. No reset follows a lost life.
        truncated: `[B]` bool, the episode was cut short: bootstrap through it.
        reset: `[B]` bool, the step ignored its action and only began a new episode: its reward is 0
            and it must not be trained on.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    reset: NDArray[np.bool_]


class Environment(ABC):
    """B lanes of one game, each with its own seed; what a lane does depends on nothing else."""

    spec: EnvironmentSpec
    num_envs: int
    shows_progress: ClassVar[bool] = False
    """Whether it takes `progress`, and calls that once for every lane made or reset."""

    @abstractmethod
    def reset(self) -> NDArray[Any]:
        """Begin every lane afresh from its seed and return the observations `[B, *shape]`."""

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> Transition:
        """Advance every lane by one agent step.

        Args:
            actions: `[B]` int64, each from 0 to `spec.num_actions - 1`.

        Raises:
            ValueError: `actions` has the wrong shape, type or range; no lane was advanced.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the lanes; closing twice is allowed, stepping a closed environment is not."""


@contextlib.contextmanager
def closing_quietly(environment: Environment) -> Iterator[None]:
    """Close `environment` at the end; what it raises then is printed, and ends nothing."""
    try:
        yield
    finally:
        try:
            environment.close()
        except Exception:
            traceback.print_exc()


def check_actions(actions: NDArray[np.int64], num_envs: int, num_actions: int) -> None:
    """Raise ValueError unless `actions` is `[num_envs]` int64 within `[0, num_actions)`.

    Emulators are not trusted with this: one wrong action makes ale-py's vector environment wait
    for ever.
    """
    if actions.shape != (num_envs,) or actions.dtype != np.int64:
        raise ValueError(
            f"actions: expected int64 of shape ({num_envs},), got {actions.dtype} {actions.shape}"
        )
    # As unsigned numbers, negative ones are huge.
    if actions.view(np.uint64).max() >= num_actions:
        raise ValueError(f"actions: expected 0 to {num_actions - 1}, got {actions.tolist()}")


@dataclass(frozen=True)
class Episode:
    """A finished game: its lane, its true return, and its length in agent steps."""

    env_index: int
    ret: float
    length: int


class EpisodeCounter:
    """Adds up true returns and lengths of B lanes.

    An episode is complete when its game really ended, not when a life was lost. That is known for
    sure only from the reset step which follows, so episodes come out there; the reset step itself
    counts for neither episode.
    """

    def __init__(self, num_envs: int) -> None:
        """Start counting `num_envs` lanes, all at the start of an episode."""
        self._returns = np.zeros(num_envs, np.float64)
        self._steps = 0
        self._begun: NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def update(self, transition: Transition) -> list[Episode]:
        """Count one agent step of all lanes; return the episodes that it completed, by lane."""
        finished = []
        if transition.reset.any():
            for env_index in np.flatnonzero(transition.reset).tolist():
                length = self._steps - int(self._begun[env_index])
                finished.append(Episode(env_index, float(self._returns[env_index]), length))
            self._returns[transition.reset] = 0.0
            self._begun[transition.reset] = self._steps + 1
        self._returns += transition.rewards  # 0 where a lane was reset
        self._steps += 1
        return finished
