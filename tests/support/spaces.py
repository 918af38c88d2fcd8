"""Environments of any observation space: `--env-id tests.support.spaces:NAME`."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)

LENGTH = 7
"""Steps of an episode."""

SPACES: dict[str, gymnasium.Space[Any]] = {
    "float64": Box(-5.0, 5.0, (3,), np.float64),
    "bools": Box(0, 1, (4,), np.bool_),
    "bytes_": Box(0, 255, (6,), np.uint8),
    "bits": Box(0, 1, (6,), np.uint8),
    "int8": Box(-128, 127, (2,), np.int8),
    "int32": Box(-4, 8, (2, 3), np.int32),
    "int64": Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "uint16": Box(0, 65535, (2,), np.uint16),
    "number": Box(-np.inf, np.inf, (), np.float32),
    "discrete": Discrete(5, start=-2),
    "multi_discrete": MultiDiscrete([3, 2], start=[1, 0]),
    "multi_binary": MultiBinary([2, 2]),
    "nested": Dict(
        {
            "place": Discrete(3),
            "pair": Tuple((Box(-1, 1, (2,), np.float64), MultiBinary(2))),
            "map": Box(0, 255, (2, 2, 3), np.uint8),
            "counts": Box(0, 10, (2,), np.int64),
        }
    ),
    "cameras": Dict(
        {
            "left": Box(0, 255, (10, 12, 3), np.uint8),
            "right": Box(0, 255, (1, 10, 12), np.uint8),
        }
    ),
    "masked": Tuple((Box(0, 255, (10, 12, 3), np.uint8), Box(0, 1, (10, 12, 1), np.bool_))),
    "board": Box(0, 1, (10, 10, 4), np.bool_),
    "cube": Box(0, 1, (10, 10, 10), np.uint8),
    "first": Box(0, 255, (3, 10, 12), np.uint8),
    "colours": Box(0, 255, (48, 40, 3), np.uint8),
    "gray": Box(0, 255, (48, 40), np.uint8),
    "shades": Box(0.0, 255.0, (40, 40, 3), np.float64),
    "unit": Box(0.0, 1.0, (40, 40, 3), np.float32),
    "text": Dict({"image": Box(0, 1, (2,)), "mission": Dict({"words": Text(9)})}),
    "graph": Graph(Box(0, 1, (2,)), None),
    "sequence": Sequence(Discrete(3)),
    "one_of": Tuple((OneOf((Discrete(2), Discrete(3))),)),
    "huge": Discrete(10**9),
    "empty": Box(0, 1, (0,)),
    "nothing": Dict({}),
}


class Sampling(gymnasium.Env[Any, Any]):
    """Shows samples of its space, drawn from the seed; the reward is the number of the step."""

    action_space = Discrete(2)

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.observation_space = copy.deepcopy(space)
        self.seen: list[Any] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._sample(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, Any]:
        """Go on; the last step terminates."""
        self.steps += 1
        return self._sample(), float(self.steps), self.steps == LENGTH, False, {}

    def _sample(self) -> Any:
        self.seen.append(self.observation_space.sample())
        return self.seen[-1]


made: list[Sampling] = []
"""What this process has made, newest last."""


def __getattr__(name: str) -> Any:
    """Return the factory of an environment of the space of that name."""
    if name not in SPACES:
        raise AttributeError(name)

    def make() -> Sampling:
        made.append(Sampling(SPACES[name]))
        return made[-1]

    return make
