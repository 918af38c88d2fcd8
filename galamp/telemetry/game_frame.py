"""Newest observation of a game as a `GameFrame`: a grey picture, or some numbers. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.telemetry.snapshot import GameFrame

MAX_VALUES = 32
LEAST_PIXELS = 16
"""Observations with fewer rows or columns are shown as numbers."""


def game_frame(observation: npt.NDArray[Any], learner: int, env_index: int) -> GameFrame:
    """Return what is shown of an observation: of a stack of frames the newest one.

    Args:
        observation: [stack, height, width] or [height, width] of bytes is a picture.
        learner: whose environment it is of.
        env_index: which.
    """
    picture = observation[-1] if observation.ndim == 3 else observation
    if picture.ndim == 2 and picture.dtype == np.uint8 and min(picture.shape) >= LEAST_PIXELS:
        height, width = picture.shape
        return GameFrame(learner, env_index, width, height, picture.tobytes().hex())
    values = tuple(np.asarray(observation, np.float64).reshape(-1)[:MAX_VALUES].tolist())
    return GameFrame(learner, env_index, 0, 0, "", values)
