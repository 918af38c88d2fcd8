"""Actions of a Box space: continuous numbers, and how they are brought into their bounds.

    number of the policy, unbounded --clipped, or tanh and scaled--> number of the environment

Used by every process; numpy only. See `action_spec.py` for what all kinds of actions have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from galamp.core.action_spec import Array, PartedActions, require
from galamp.core.config import ACTION_BOUNDS, CLIP, SQUASH

UNBOUNDED = 1e30
"""A bound at or beyond this counts as none: float32 numbers end at 3.4e38."""


@dataclass(frozen=True)
class BoxActions(PartedActions):
    """k numbers, each within its bounds `low[i]` and `high[i]`, or without where they are infinite.

    A policy's numbers are unbounded. At the environment's border they are clipped to the bounds;
    with `bounds` `squash`, those with two finite bounds become
    low + (tanh(x) + 1) / 2 (high - low) instead.
    """

    kind: ClassVar[str] = "box"
    dtype: ClassVar[str] = "float32"
    low: tuple[float, ...]
    high: tuple[float, ...]
    bounds: str = CLIP
    form: tuple[int, ...] | None = None
    """Shape of the environment's action; None: [k]."""

    def __post_init__(self) -> None:
        """Raise ValueError for a spec that can be none."""
        sides = (self.low, self.high)
        numbers = all(isinstance(s, tuple) and {*map(type, s)} <= {int, float} for s in sides)
        require(numbers and len(self.low) == len(self.high) > 0, "low and high are not alike")
        below = all(low < high for low, high in zip(self.low, self.high, strict=True))
        require(below, "low is not below high")
        require(self.bounds in ACTION_BOUNDS, f"bounds is neither {CLIP} nor {SQUASH}")
        self._check_form()

    @property
    def size(self) -> int:
        """See `PartedActions.size`."""
        return len(self.low)

    @property
    def squashed(self) -> tuple[bool, ...]:
        """Which of the k numbers are squashed."""
        finite = [abs(a) < UNBOUNDED > abs(b) for a, b in zip(self.low, self.high, strict=True)]
        return tuple(self.bounds == SQUASH and each for each in finite)

    def describe(self) -> str:
        """See `ActionSpec.describe`."""
        return f"Box {list(self.space_shape)} actions" + (", squashed" * any(self.squashed))

    def draw(self, random: np.random.Generator, envs: int) -> Array:
        """See `ActionSpec.draw`."""
        return random.standard_normal((envs, self.size), np.float32)

    def to_environment(self, actions: Array) -> Array:
        """See `ActionSpec.to_environment`; float32."""
        # In float64, in which the difference of two finite bounds does not overflow.
        low, high, squashed = self._sides
        wide = actions.astype(np.float64)
        if len(squashed):
            unit = (np.tanh(wide[:, squashed]) + 1) / 2
            wide[:, squashed] = low[squashed] + unit * (high - low)[squashed]
        inner_low, inner_high = self._inner
        clipped = np.clip(np.clip(wide, low, high).astype(np.float32), inner_low, inner_high)
        return super().to_environment(clipped)

    @cached_property
    def _inner(self) -> tuple[Array, Array]:
        """The bounds as float32 numbers that do not lie beyond them."""
        low, high, _ = self._sides
        with np.errstate(over="ignore"):
            near_low, near_high = low.astype(np.float32), high.astype(np.float32)
        up, down = np.float32(np.inf), np.float32(-np.inf)
        return (
            np.where(near_low < low, np.nextafter(near_low, up), near_low),
            np.where(near_high > high, np.nextafter(near_high, down), near_high),
        )

    @cached_property
    def _sides(self) -> tuple[Array, Array, Array]:
        """Low, high, and which are squashed, as arrays."""
        low, high = (np.array(side, np.float64) for side in (self.low, self.high))
        return low, high, np.flatnonzero(self.squashed)

    def _problem(self, actions: Array) -> str:
        return "" if np.isfinite(actions).all() else "finite numbers"
