"""State of a run at one moment, as checkpoints hold it. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from galamp.storage.identity import Identity


@dataclass(frozen=True)
class LearnerState:
    """Complete state of one learner, from which it can resume."""

    rank: int
    parameters: dict[str, npt.NDArray[np.float32]]
    """By name, in standard PyTorch layout."""
    optimizer: dict[str, npt.NDArray[np.float32]]
    """By name, each `[P]`, such as RMSprop's `square_average`, or shorter, such as a mean `[1]`."""
    counters: dict[str, int]
    generator: npt.NDArray[np.uint8]
    """`[G]`: state of the generator that samples actions."""
    normaliser: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """What `--norm-obs` and `--norm-reward` keep, see `core.normalisation`; else empty."""


@dataclass(frozen=True)
class MeanState:
    """Mean of the learners of all nodes, as one node has them."""

    parameters: dict[str, npt.NDArray[np.float32]]
    """By name, in standard PyTorch layout."""
    learners: int
    """Number of learners that it is of."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at one moment."""

    identity: Identity
    config: dict[str, Any]
    progress: dict[str, Any]
    """JSON values; `agent_steps` must be among them and names the folder."""
    learners: tuple[LearnerState, ...]
    mean: MeanState | None = None
    """Of runs on several nodes, where this one saves it; None as well where it was not read."""
