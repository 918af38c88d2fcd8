"""Preprocessing of one Gymnasium environment: frame skip, grayscale, size, stack; with OpenCV.

    env --action repeated--> frames --the last--> gray --> resized --> stacked --> observation

Runs in simulator processes and in the probe. Gymnasium's own wrappers are not used: its
MaxAndSkipObservation shows old frames where an episode ends within a skip, while a truncated step
is bootstrapped from its true last observation; its stack of images has a dimension more than a
convolution takes. Atari has all this in its protocols (`protocols.py`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from galamp.core.config import EnvironmentConfig
from galamp.core.errors import UserError
from galamp.core.pip_commands import pip_install
from galamp.core.settings import shown
from galamp.environments import flattening
from galamp.environments.observations import IMAGE_DIMENSIONS, channels_are_last, layout_note

HEADLESS = ("--force-reinstall", "--no-deps", "opencv-python-headless")
"""For pip: over an OpenCV that cannot be imported, mostly for want of a display's libraries."""
MAX_SIDE = 4096
_SIZE = re.compile(r"([0-9]{1,4})(?:x([0-9]{1,4}))?")
GRAY = {3: "COLOR_RGB2GRAY", 4: "COLOR_RGBA2GRAY"}
"""OpenCV's conversion by the number of channels: 0.299 R + 0.587 G + 0.114 B."""


class Preprocessing(NamedTuple):
    """What is done to observations; nothing by default."""

    skip: int = 1
    """Frames per agent step: the action is repeated, rewards are summed, and the last frame is
    seen, without a maximum over frames."""
    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    grayscale: bool = False
    stack: int = 1
    """Observations that the agent sees at once, oldest first; an episode begins with copies of
    its first."""

    @classmethod
    def of(cls, config: EnvironmentConfig) -> Self:
        """Return what the settings ask for.

        Raises:
            UserError: the size is none.
        """
        return cls(
            skip=config.frame_skip or 1,
            size=None if config.resize is None else parse_size(config.resize),
            grayscale=config.grayscale,
            stack=config.frame_stack or 1,
        )

    def describe(self) -> str:
        """Return it for a protocol: each part after a comma; empty if nothing is done."""
        parts = {
            f"frame skip {self.skip}": self.skip > 1,
            "grayscale": self.grayscale,
            f"resized to {self.size[0]} x {self.size[1]}" if self.size else "": bool(self.size),
            f"stack {self.stack}": self.stack > 1,
        }
        return "".join(f", {part}" for part, done in parts.items() if done)


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of `84` or `96x128`.

    Raises:
        UserError: it is neither.
    """
    match = _SIZE.fullmatch(text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise UserError(
            f"--resize {shown(text)}: expected pixels a side, such as 84, or height x width, such "
            f"as 96x128, up to {MAX_SIDE}"
        )
    return height, width


class PreprocessedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Environment whose observations, from one Box, are preprocessed.

    Attributes:
        channels_first: whether observations are images [C, H, W] now.
        note: how the environment's own images are read, and what is done to them; or empty.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], env_id: str, how: Preprocessing, channels_first: bool
    ) -> None:
        """Wrap `env`; images of `env` are known to be `channels_first`, or go by their shape.

        Raises:
            UserError: the settings are for images, and it has none.
        """
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        self._how, self._env_id = how, env_id
        self._is_image = _is_image(env_id, space, how)
        self._last = self._is_image and len(space.shape) == IMAGE_DIMENSIONS
        self._last = self._last and not channels_first and channels_are_last(space.shape)
        self.channels_first = self._is_image
        if how.grayscale:
            _check_colours(env_id, space, self._last)
        self._cv2: Any = opencv() if how.grayscale or how.size else None
        known = self._is_image and len(space.shape) == IMAGE_DIMENSIONS
        self.note = layout_note(space.shape, self._last) + how.describe() if known else ""
        frame = self._frame(np.zeros(space.shape, space.dtype))
        self._frames = np.zeros((how.stack, *frame.shape), frame.dtype)
        shape = (how.stack * frame.shape[0], *frame.shape[1:])
        self.observation_space = Box(space.low.min(), space.high.max(), shape, frame.dtype.type)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode, with a stack of copies of its first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames = np.repeat(self._frame(observation)[np.newaxis], self._how.stack, axis=0)
        return self._frames.reshape(self.observation_space.shape or ()), info

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Repeat an action for the frame skip, or until the episode ends."""
        total = 0.0
        for _ in range(self._how.skip):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        frame = self._frame(observation)[np.newaxis]
        self._frames = np.concatenate((self._frames[1:], frame))
        seen = self._frames.reshape(self.observation_space.shape or ())
        return seen, total, terminated, truncated, info

    def _frame(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Return one observation as a vector [N], or as an image [C, H, W]."""
        how, given = self._how, observation
        if not self._is_image:
            return given if given.ndim else given[np.newaxis]
        if given.ndim < IMAGE_DIMENSIONS:
            given = given[..., np.newaxis]
        elif not self._last:
            given = np.moveaxis(given, 0, -1)
        if given.dtype != np.uint8:
            with np.errstate(over="ignore"):  # it becomes infinite, which the batch's check tells
                given = given.astype(np.float32)
        image = np.ascontiguousarray(given)
        cv2 = self._cv2
        if how.grayscale:
            image = cv2.cvtColor(image, getattr(cv2, GRAY[image.shape[2]]))[..., np.newaxis]
        if how.size:
            height, width = how.size
            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            image = resized.reshape(height, width, image.shape[2])
        return np.moveaxis(image, -1, 0)


def opencv(asker: str = "--resize, --grayscale: need") -> Any:
    """Return OpenCV, which only environments with images to preprocess load; `asker` needs it.

    It gets one thread: a simulator has a share of the cores, and its threads are counted before.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        import cv2
    except ImportError as error:
        told = " ".join(str(error).split())
        absent = isinstance(error, ModuleNotFoundError)
        fix = ("opencv-python",) if absent else HEADLESS
        raise UserError(
            f"{asker} OpenCV, and importing cv2 raised {type(error).__name__}: {told}; "
            f"{pip_install(*fix)}"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def _is_image(env_id: str, space: Box, how: Preprocessing) -> bool:
    """Whether observations are to be read as images.

    Raises:
        UserError: they are none, and have to be.
    """
    asked = {"--resize": bool(how.size), "--grayscale": how.grayscale}
    if len(space.shape) in (2, IMAGE_DIMENSIONS):
        return any(asked.values()) or how.stack > 1
    if how.stack > 1 and len(space.shape) != 1:
        asked["--frame-stack"] = True
    flags = ", ".join(flag for flag, given in asked.items() if given)
    if flags:
        raise UserError(
            f"{env_id}: {flags}: only for images, [H, W] or [H, W, C] or [C, H, W], and its "
            f"observations are of the space {flattening.shown(space)}: leave it out"
        )
    return False


def _check_colours(env_id: str, space: Box, last: bool) -> None:
    shape = space.shape
    channels = 1 if len(shape) < IMAGE_DIMENSIONS else shape[2] if last else shape[0]
    if channels not in GRAY:
        raise UserError(
            f"{env_id}: --grayscale: expected images of 3 or 4 channels, and those of the space "
            f"{flattening.shown(space)} have {channels}: leave it out"
        )
