"""Environments that draw from generators which a whole process shares.

`--env-id tests.support.randomness:NAME`. Each new environment appends a line to the file that
TEST_DRAWS names: its process id, and its first number from each generator as JSON.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch

from tests.support.crashing import _only_once, _raise

STEPS = 20


def _by_opencv() -> float:
    drawn = np.zeros(1)
    cv2.randu(drawn, 0.0, 1.0)
    return float(drawn[0])


SOURCES: dict[str, Callable[[], float]] = {
    "random": random.random,
    "numpy": lambda: float(np.random.random()),
    "torch": lambda: float(torch.rand(())),
    "opencv": _by_opencv,
}


class Drawing(gymnasium.Env[Any, Any]):
    """Every observation is new numbers from all generators; nothing heeds the seed of `reset`."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(SOURCES) + 2,), np.float32)

    def __init__(self, fail: Callable[[], None] = lambda: None) -> None:
        self.action_space = gymnasium.spaces.Discrete(1000)
        self._fail, self._recorded, self._steps = fail, False, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == STEPS // 2:
            self._fail()
        return self._observation(), random.random(), self._steps == STEPS, False, {}

    def _observation(self) -> Any:
        drawn = {name: draw() for name, draw in SOURCES.items()}
        drawn["space"] = int(self.action_space.sample()) / 1000
        drawn["hash"] = hash("galamp") % 1000 / 1000
        self._record(drawn)
        return np.array(list(drawn.values()), np.float32)

    def _record(self, drawn: dict[str, float]) -> None:
        if not self._recorded and "TEST_DRAWS" in os.environ:
            with open(os.environ["TEST_DRAWS"], "a") as file:
                file.write(json.dumps({"pid": os.getpid(), **drawn}) + "\n")
        self._recorded = True


def drawing() -> Drawing:
    return Drawing()


def stumbling() -> Drawing:
    """Raises once, in one simulator."""
    return Drawing(_only_once(_raise))
