"""Scalars of a row of metrics, as TensorBoard and Weights & Biases are given them.

    row --scalars--> (tag, number), ... at step `step_of`

Tags are the names in the row, which are CleanRL's where CleanRL has one. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from galamp.telemetry.sinks.base import Row

STEP = "global_step"
"""The x axis, which is no tag of its own."""

CLEANRL = {"losses/clip_fraction": "losses/clipfrac"}
"""Name in a row -> CleanRL's tag, where they differ."""


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a row but the step, each with its tag; texts are left out."""
    for name, value in row.items():
        if name != STEP and isinstance(value, int | float) and math.isfinite(value):
            yield CLEANRL.get(name, name), float(value)


def step_of(row: Row) -> int:
    """Return the agent steps of a row: its place on the x axis."""
    return int(float(row[STEP] or 0))
