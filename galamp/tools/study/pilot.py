"""How fast each arm of a block is on this machine, and how much of it fits into a time.

    Sweep --rates--> Rate of each arm --fitting_seeds--> seeds

Runs in `bin/study pilot`: the first run of each arm, for a short time, one after the other.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from galamp.tools.bench.runs import System, measure
from galamp.tools.sweep.planned import PlannedRun, Sweep, flags

SECONDS, WARM_UP_S = 15.0, 5.0
"""Measured of each arm, and left out before that, from its first agent step on."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Rate:
    """One arm.

    Attributes:
        arm: its name.
        per_s: agent steps per second of training.
        start_s: time of a run that is no training, in seconds.
        runs: of the block.
        steps: agent steps of them all.
    """

    arm: str
    per_s: float
    start_s: float
    runs: int
    steps: int

    @property
    def hours(self) -> float:
        """Time for all runs of the arm, one after the other."""
        return (self.steps / self.per_s + self.runs * self.start_s) / HOUR_S


def rates(sweep: Sweep, say: Callable[[str], object]) -> list[Rate]:
    """Measure each arm.

    Raises:
        RunFailed: a run fails, or makes no agent steps.
    """
    found = []
    for arm in sweep.arms:
        of = [run for run in sweep.runs if run.arm == arm]
        say(f"{arm}: {WARM_UP_S + SECONDS:g} s ...")
        per_s, start_s = _measured(of[0])
        steps = sum(run.config.total_steps for run in of)
        found.append(Rate(arm, per_s, start_s, len(of), steps))
    return found


def fitting_seeds(hours: float, available: float, seeds: int) -> int:
    """Return how many seeds fit into a time, of `seeds` that take `hours`."""
    return min(seeds, math.floor(seeds * available / hours + 1e-9)) if hours > 0 else seeds


def _measured(run: PlannedRun) -> tuple[float, float]:
    """Return the agent steps per second of a run, and its time without training."""
    command = (sys.executable, "-m", "galamp", "run", "--quiet", *flags(run))
    began_s = time.monotonic()
    found = measure(System(run.name, command), run.seed, seconds=SECONDS, warm_up_s=WARM_UP_S)
    other_s = time.monotonic() - began_s - WARM_UP_S - found.seconds
    return found.agent_steps_per_s, max(0.0, other_s)
