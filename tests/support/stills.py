"""An environment with frames: seven steps of one reward each, on a field of a colour per step.

`--env-id tests.support.stills:make`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

STEPS = 7
HEIGHT, WIDTH = 60, 80


class Stills(gymnasium.Env[Any, Any]):
    """Every frame is of another brightness, with a white square that moves to the right."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self._steps = render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self._seen(), 1.0, self._steps == STEPS, False, {}

    def render(self) -> Any:
        frame = np.full((HEIGHT, WIDTH, 3), 20 + 25 * self._steps, np.uint8)
        frame[20:40, 10 * self._steps : 10 * self._steps + 10] = 255
        return frame

    def _seen(self) -> Any:
        return np.array([self._steps / STEPS], np.float32)


def make(**known: Any) -> Stills:
    return Stills(**known)
