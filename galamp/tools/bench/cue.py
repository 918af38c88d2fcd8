"""A task for a memory: the first observation shows a cue, the last action has to repeat it.

Runs in simulators, as `--env-id galamp.tools.bench.cue:FirstCue`. Whatever the cue was, all that
follows looks the same, so the best that a feedforward network can do is to guess.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

CUES = 4
DELAY = 6
"""Agent steps between the cue and the answer, at which nothing is seen."""

GUESSING = 1 / CUES
"""Greatest mean return without a memory."""

Observation = npt.NDArray[np.float32]


class FirstCue(gymnasium.Env[Observation, np.int64]):
    """One of four cues, six blank observations, then the answer: return 1 if it is the cue, else 0.

    Observations are float32 [5]: the first one is the cue as a one-hot vector, the last but one,
    which asks for the answer, has a 1 at its end, and all others are zeros. An episode takes 8
    agent steps.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (CUES + 1,), np.float32)
        self.action_space = spaces.Discrete(CUES)
        self._cue = self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self._cue, self._step = int(self.np_random.integers(CUES)), 0
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Go on; the action counts only where the observation before asked for it."""
        answered = self._step == DELAY + 1
        self._step += 1
        return self._seen(), float(answered and action == self._cue), answered, False, {}

    def _seen(self) -> Observation:
        seen = np.zeros(CUES + 1, np.float32)
        if self._step == 0:
            seen[self._cue] = 1.0
        elif self._step == DELAY + 1:
            seen[CUES] = 1.0
        return seen
