"""Atari environments, emulated by ale-py: by its C++ vector environment, or one by one.

    protocol is plain: AtariVectorEnv  --+
    modes, RAM:        atari_consoles  --+--> batch of frames, rewards, ends --> Transition

Runs in simulator processes and in the probe. The emulator returns a batch of preprocessed frames;
this module converts its results into `Transition`s, and works around its pitfalls, each described
where it occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.environments.action_spaces import refuse_bounds
from galamp.environments.atari_consoles import SCREEN, Console, Consoles, observation_shape
from galamp.environments.base import Environment, EnvironmentSpec, Transition
from galamp.environments.names import rom_name
from galamp.environments.protocols import AtariProtocol, resolve


class AtariEnvironment(Environment):
    """B environments of one Atari game under an `AtariProtocol`."""

    def __init__(
        self, env_id: str, config: EnvironmentConfig, seeds: Sequence[int], threads: int
    ) -> None:
        """Load the game B times.

        If the emulator cannot play a ROM, its C++ code ends the whole process with exit code 1.

        Raises:
            UserError: the ROM file is missing or damaged, or the protocol does not exist.
        """
        _refuse_settings(env_id, config)
        protocol = resolve(config)
        self.num_envs = len(seeds)
        self._seeds = np.asarray(seeds, np.int64)
        self._vector: AtariVectorEnv | Consoles | None = (
            _load(env_id, protocol, self.num_envs, threads)
            if protocol.is_plain
            else Consoles(env_id, protocol, self.num_envs)
        )
        actions = self._vector.ale.get_action_set()
        self.spec = EnvironmentSpec(
            env_id=env_id,
            observation_shape=observation_shape(protocol),
            observation_dtype="uint8",
            actions=DiscreteActions(len(actions)),
            action_meanings=tuple(action.name for action in actions),
            frames_per_step=protocol.frame_skip,
            clip_rewards=protocol.clip_rewards,
            protocol=protocol.describe(),
            max_episode_steps=-(-protocol.max_frames // protocol.frame_skip),
        )
        refuse_bounds(env_id, self.spec.actions, config.action_bounds)
        self._episode_start: NDArray[np.int32] = np.zeros(self.num_envs, np.int32)

    def reset(self) -> NDArray[Any]:
        """Restart every environment; see `Environment.reset`."""
        observations: NDArray[Any]
        observations, info = self._open().reset(seed=self._seeds)
        self._episode_start = _episode_start(info)
        return observations

    def step(self, actions: NDArray[Any]) -> Transition:
        """Advance by `frames_per_step` emulator frames; see `Environment.step`."""
        self.spec.actions.check(actions, self.num_envs)
        observations, rewards, terminated, truncated, info = self._open().step(actions)
        start = _episode_start(info)
        reset = start != self._episode_start
        self._episode_start = start
        return Transition(observations, rewards.astype(np.float64), terminated, truncated, reset)

    def close(self) -> None:
        """Stop the emulator's threads and free its environments; see `Environment.close`."""
        self._vector = None

    @property
    def console(self) -> Console | None:
        """The first console; None where ale-py's vector environment plays."""
        vector = self._open()
        return vector.first if isinstance(vector, Consoles) else None

    def _open(self) -> AtariVectorEnv | Consoles:
        if self._vector is None:
            raise RuntimeError(f"{self.spec.env_id}: the environment is closed")
        return self._vector


def _refuse_settings(env_id: str, config: EnvironmentConfig) -> None:
    """Raise UserError for settings that are for other environments."""
    asked = {"--resize": config.resize is not None, "--grayscale": config.grayscale}
    flags = ", ".join(flag for flag, given in asked.items() if given)
    if flags:
        raise UserError(
            f"{flags}: not for Atari, and {env_id} is: its frames are gray, of {SCREEN} x {SCREEN} "
            "pixels, in every protocol: leave it out"
        )
    made = {"--env-kwargs": bool(config.env_kwargs), "--wrapper": bool(config.wrapper)}
    flags = ", ".join(flag for flag, given in made.items() if given)
    if flags:
        raise UserError(
            f"{flags}: not for Atari games, which are made in one piece: use --mode, --difficulty, "
            "--obs-type and the protocol's flags, or a factory of your own around "
            f"gymnasium.make({env_id!r})"
        )


def _episode_start(info: dict[str, NDArray[np.int32]]) -> NDArray[np.int32]:
    """Return the emulator frame `[B]` at which each environment's current episode began.

    It changes exactly at a reset. Other signs are not reliable: some games have no lives, and the
    frame number within the episode can even rise over a reset, if a short episode is followed by
    one with many no-ops.
    """
    return info["frame_number"] - info["episode_frame_number"]


def _load(env_id: str, protocol: AtariProtocol, envs: int, threads: int) -> AtariVectorEnv:
    try:
        return AtariVectorEnv(
            rom_name(env_id),
            envs,
            num_threads=threads,
            autoreset_mode="NextStep",
            reward_clipping=False,  # the default hides the true score
            episodic_life=False,  # it would restart the game at every lost life
            life_loss_info=protocol.life_loss_ends,
            use_fire_reset=protocol.fire_reset,
            repeat_action_probability=protocol.sticky_actions,
            noop_max=protocol.noop_max,
            frameskip=protocol.frame_skip,
            stack_num=protocol.frame_stack,
            max_num_frames_per_episode=protocol.max_frames,
            full_action_space=protocol.full_action_space,
            img_height=SCREEN,
            img_width=SCREEN,
        )
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{env_id}: the ROM cannot be read ({reason}): reinstall ale-py") from error
