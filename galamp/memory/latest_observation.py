"""Newest observation of one environment, read from a learner's rollout ring by whoever looks on.

    rollout ring --latest_observation--> a copy, or None before the first

Runs in the supervisor. Nothing is written and nobody waits: the simulator may be writing the same
row, so what is returned may be torn, with a part of the observation before. It is only looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.memory.arrays import WORDS_PER_LINE, SharedArrays
from galamp.memory.rollouts import COMMITTED, RolloutShape


def latest_observation(
    arrays: SharedArrays, rank: int, shape: RolloutShape, env_index: int = 0
) -> npt.NDArray[Any] | None:
    """Return a copy of the newest observation of learner `rank`'s environment `env_index`."""
    worker = next(w for w in range(shape.workers) if env_index < shape.envs(w).stop)
    committed = arrays.words(f"rollout{rank}.simulators")[worker * WORDS_PER_LINE + COMMITTED]
    if committed <= 0:
        return None
    slot, step = divmod(int(committed) - 1, shape.num_steps)
    observations = arrays[f"rollout{rank}.observations"]
    return np.array(observations[slot % shape.slots, step, env_index])
