"""How fast each arm of a block is on this machine, and how much of it fits into a time.

    Sweep --rates--> Rate of each arm --fitting_seeds--> seeds

Runs in `bin/study pilot`: the first run of each arm, for a short time, one after the other.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from galamp.core.errors import EXIT_OK, RunFailed
from galamp.tools.bench.processes import Program
from galamp.tools.run_folders.record import read_record
from galamp.tools.sweep.planned import PlannedRun, Sweep, flags

SECONDS = 20
LIMIT_S = 180.0
POLL_S = 0.2
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
        RunFailed: a run fails, or takes longer than `LIMIT_S`.
    """
    found = []
    for arm in sweep.arms:
        of = [run for run in sweep.runs if run.arm == arm]
        say(f"{arm}: {SECONDS} s ...")
        per_s, start_s = _measured(of[0])
        steps = sum(run.config.total_steps for run in of)
        found.append(Rate(arm, per_s, start_s, len(of), steps))
    return found


def fitting_seeds(hours: float, available: float, seeds: int) -> int:
    """Return how many seeds fit into a time, of `seeds` that take `hours`."""
    return min(seeds, math.floor(seeds * available / hours + 1e-9)) if hours > 0 else seeds


def _measured(run: PlannedRun) -> tuple[float, float]:
    """Return the agent steps per second of a run, and its time without training."""
    with tempfile.TemporaryDirectory(prefix="galamp-study-") as place:
        folder = Path(place, "run")
        words = [sys.executable, "-m", "galamp", "run", "--quiet", f"--run-dir={folder}"]
        words += [*flags(run), f"--max-time={SECONDS}s"]
        began_s = time.monotonic()
        with Program(words, Path.cwd(), Path(place, "output.log")) as program:
            while not program.ends_within(POLL_S):
                if time.monotonic() > began_s + LIMIT_S:
                    raise RunFailed(f"{run.name}: still ran after {LIMIT_S:g} s")
            if program.exit_code != EXIT_OK:
                raise RunFailed(f"{run.name}: {program.complaint()}")
        record = read_record(folder)
        wall_s, steps = record.number("wall_s", "wall_s"), record.agent_steps
        if not wall_s or not steps:
            raise RunFailed(f"{run.name}: made no agent steps in {SECONDS} s")
        return steps / wall_s, max(0.0, time.monotonic() - began_s - wall_s)
