"""One environment with the frames that it shows, for people; its course is that without frames.

    config, seed --filmed--> FilmedEnvironment --step--> Transition, RGB frames [H, W, 3] uint8

Runs in commands that record or show a game, never in training. Atari: ale-py's vector environment
gives the agent's small gray frames only, so a second emulator plays the same game beside it, frame
by frame, with the same seed and actions, and shows its own screen. Gymnasium: `render()` of an
environment that offers `rgb_array`, once per agent step.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import GalampError, UserError
from galamp.environments import make_environment
from galamp.environments.base import Environment, Transition, closing_quietly
from galamp.environments.names import ATARI, canonical_env_id, rom_name

Frame = NDArray[np.uint8]

HEIGHT, WIDTH = 210, 160
"""An Atari's screen (NTSC) in pixels."""
ATARI_FPS = 60.0
USUAL_FPS = 30.0
"""Frames per second of an environment that does not say how many it has."""
MODE = "rgb_array"


class FilmedEnvironment(ABC):
    """One environment, its agent's view and its frames.

    Attributes:
        environment: what the agent plays; its `num_envs` is 1.
        fps: frames per second of the game's own time.
        flickers: whether what is on the screen may be drawn in every other frame only, so that
            frames must not be left out but merged by their maximum.
    """

    flickers: ClassVar[bool] = False

    def __init__(self, environment: Environment, fps: float) -> None:
        self.environment, self.fps = environment, fps

    @abstractmethod
    def reset(self) -> tuple[NDArray[Any], list[Frame]]:
        """Start an episode; return the observations `[1, ...]` and the first frame."""

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> tuple[Transition, list[Frame]]:
        """Take an agent step; return it, and the frames that it has shown, at least one."""

    def close(self) -> None:
        """Free the environment."""
        self.environment.close()


class FilmedAtari(FilmedEnvironment):
    """An Atari game, with every frame of the emulator."""

    flickers: ClassVar[bool] = True

    def __init__(self, environment: Environment, config: EnvironmentConfig, seed: int) -> None:
        from ale_py.vector_env import AtariVectorEnv

        from galamp.environments.protocols import resolve

        super().__init__(environment, ATARI_FPS)
        protocol = resolve(config)
        self._skip, self._seed = protocol.frame_skip, seed
        self._screen = AtariVectorEnv(
            rom_name(environment.spec.env_id),
            1,
            num_threads=1,
            autoreset_mode="NextStep",
            reward_clipping=False,
            episodic_life=False,
            use_fire_reset=protocol.fire_reset,
            repeat_action_probability=protocol.sticky_actions,
            noop_max=protocol.noop_max,
            frameskip=1,
            stack_num=1,
            max_num_frames_per_episode=protocol.max_frames,
            full_action_space=protocol.full_action_space,
            img_height=HEIGHT,
            img_width=WIDTH,
            grayscale=False,
            maxpool=False,
        )

    def reset(self) -> tuple[NDArray[Any], list[Frame]]:
        """See `FilmedEnvironment.reset`."""
        observations = self.environment.reset()
        shown, _ = self._screen.reset(seed=np.array([self._seed]))
        return observations, [_frame(shown)]

    def step(self, actions: NDArray[Any]) -> tuple[Transition, list[Frame]]:
        """See `FilmedEnvironment.step`."""
        transition = self.environment.step(actions)
        frames, reward, ended = [], 0.0, False
        for _ in range(1 if transition.reset[0] else self._skip):
            shown, rewards, terminated, truncated, _ = self._screen.step(actions)
            frames.append(_frame(shown))
            reward += float(rewards[0])
            ended = bool(terminated[0] or truncated[0])
            if ended:
                break
        if ended != bool(transition.terminated[0] or transition.truncated[0]) or (
            reward != float(transition.rewards[0])
        ):
            raise GalampError(f"{self.environment.spec.env_id}: its screen shows another game")
        return transition, frames


class FilmedConsole(FilmedEnvironment):
    """An Atari game that is played on a console of its own, with every frame of it."""

    flickers: ClassVar[bool] = True

    def __init__(self, environment: Environment, console: Any) -> None:
        """Have the `console` of an `AtariEnvironment` record what it shows."""
        super().__init__(environment, ATARI_FPS)
        self._film: list[Frame] = []
        console.film = self._film

    def reset(self) -> tuple[NDArray[Any], list[Frame]]:
        """See `FilmedEnvironment.reset`."""
        return self.environment.reset(), self._taken()

    def step(self, actions: NDArray[Any]) -> tuple[Transition, list[Frame]]:
        """See `FilmedEnvironment.step`."""
        return self.environment.step(actions), self._taken()

    def _taken(self) -> list[Frame]:
        frames = self._film[:]
        self._film.clear()
        return frames


class FilmedGymnasium(FilmedEnvironment):
    """A Gymnasium environment, rendered after every agent step."""

    def __init__(self, environment: Any) -> None:
        """Have `environment`, a `GymnasiumEnvironment`, render frames.

        Raises:
            UserError: it has none.
        """
        env_id, single = environment.spec.env_id, environment.single
        metadata, own = getattr(single, "metadata", None) or {}, single.unwrapped
        # Factories take no argument: it is asked for afterwards, and read when it renders.
        if own.render_mode is None and MODE in metadata.get("render_modes", ()):
            own.render_mode = MODE
        if own.render_mode != MODE:
            offers = ", ".join(map(str, metadata.get("render_modes", ()))) or "nothing"
            raise UserError(
                f"{env_id}: has no frames: expected render_mode {MODE}, it offers {offers}"
            )
        fps = metadata.get("render_fps") or USUAL_FPS
        super().__init__(environment, float(fps) / environment.spec.frames_per_step)
        self._single = single

    def reset(self) -> tuple[NDArray[Any], list[Frame]]:
        """See `FilmedEnvironment.reset`."""
        observations = self.environment.reset()
        return observations, [self._rendered()]

    def step(self, actions: NDArray[Any]) -> tuple[Transition, list[Frame]]:
        """See `FilmedEnvironment.step`."""
        transition = self.environment.step(actions)
        return transition, [self._rendered()]

    def _rendered(self) -> Frame:
        env_id = self.environment.spec.env_id
        try:
            frame = np.asarray(self._single.render())
        except Exception as error:  # rendering can raise anything, for want of a package often
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{env_id}: has no frames: render() raised {told}") from error
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise UserError(
                f"{env_id}: has no frames: expected uint8 [height, width, 3] of render(), got "
                f"{frame.dtype} {list(frame.shape)}"
            )
        return frame.copy()


def filmed(config: EnvironmentConfig, seed: int) -> FilmedEnvironment:
    """Build one environment whose frames can be seen.

    Raises:
        UserError: it cannot be built, or has no frames.
    """
    from galamp.environments.gymnasium import GymnasiumEnvironment

    config = dataclasses.replace(config, num_envs=1)
    environment = make_environment(config, [seed])
    try:
        if canonical_env_id(config.env_id).startswith(ATARI):
            console = getattr(environment, "console", None)
            if console is not None:
                return FilmedConsole(environment, console)
            return FilmedAtari(environment, config, seed)
        if isinstance(environment, GymnasiumEnvironment):
            return FilmedGymnasium(environment)
        raise UserError(f"{config.env_id}: has no frames that could be shown")
    except BaseException:
        with closing_quietly(environment):
            raise


def _frame(shown: NDArray[Any]) -> Frame:
    """Return the frame of the emulator's batch [1, 1, H, W, 3]."""
    frame: Frame = shown[0, 0].copy()
    return frame
