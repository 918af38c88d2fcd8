"""How fast each arm of a block is on this machine, and how much of it fits into a time.

    Sweep --rates--> Rate of each arm --hours, fitting_seeds--> time of all, seeds that fit

Runs in `bin/study pilot`: the first run of each arm, for a short time, one after the other, on as
many cores as `bin/study run` gives it. Runs that have cores of their own are counted as running at
once, as they are packed there; each at the rate that it has alone.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from galamp.tools.bench.runs import System, measure
from galamp.tools.sweep.packing import Packing, Place
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
    """

    arm: str
    per_s: float
    start_s: float
    runs: int

    def seconds(self, run: PlannedRun) -> float:
        """Return the time that a run of the arm takes."""
        return run.config.total_steps / self.per_s + self.start_s


def rates(sweep: Sweep, packing: Packing, say: Callable[[str], object]) -> list[Rate]:
    """Measure each arm.

    Args:
        sweep: of the block.
        packing: of the machine; nothing has been taken.
        say: is told what is measured.

    Raises:
        RunFailed: a run fails, or makes no agent steps.
    """
    found = []
    for arm in sweep.arms:
        of = [run for run in sweep.runs if run.arm == arm]
        say(f"{arm}: {WARM_UP_S + SECONDS:g} s ...")
        per_s, start_s = measured(of[0], packing)
        found.append(Rate(arm, per_s, start_s, len(of)))
    return found


def hours(runs: Sequence[PlannedRun], rates: Sequence[Rate], packing: Packing) -> float:
    """Return the time for all runs, which start in order, each once it has its cores.

    Args:
        runs: in the order in which they start; smaller ones may overtake.
        rates: of their arms.
        packing: of the machine; nothing has been taken.
    """
    of = {rate.arm: rate for rate in rates}
    waiting, now_s = list(runs), 0.0
    under_way: list[tuple[float, int, Place]] = []
    numbers = itertools.count()
    while waiting or under_way:
        left = []
        for run in waiting:
            place = packing.take(run.cores)
            if place is None:
                left.append(run)
            else:
                ends_s = now_s + of[run.arm].seconds(run)
                heapq.heappush(under_way, (ends_s, next(numbers), place))
        waiting = left
        now_s, _, place = heapq.heappop(under_way)
        packing.free(place)
    return now_s / HOUR_S


def fitting_seeds(
    runs: Sequence[PlannedRun], rates: Sequence[Rate], packing: Packing, available: float
) -> int:
    """Return how many seeds of each arm and game fit into so many hours."""
    seeds = len({run.seed for run in runs})
    fitting = (
        count
        for count in range(seeds, 0, -1)
        if hours(first_seeds(runs, count), rates, packing) <= available + 1e-9
    )
    return next(fitting, 0)


def first_seeds(runs: Sequence[PlannedRun], count: int) -> list[PlannedRun]:
    """Return the runs with the first `count` seeds of each arm and game."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for run in runs:
        seen[run.arm, run.env_id] += 1
        if seen[run.arm, run.env_id] <= count:
            found.append(run)
    return found


def measured(run: PlannedRun, packing: Packing) -> tuple[float, float]:
    """Return the agent steps per second of a run, and its time without training.

    Raises:
        RunFailed: the run fails, or makes no agent steps.
    """
    place = packing.take(run.cores)
    assert place is not None, "nothing else runs"
    command = (sys.executable, "-m", "galamp", "run", "--quiet", *flags(run))
    began_s = time.monotonic()
    try:
        found = measure(
            System(run.name, command), run.seed, seconds=SECONDS, warm_up_s=WARM_UP_S,
            cores=place.cores,
        )  # fmt: skip
    finally:
        packing.free(place)
    other_s = time.monotonic() - began_s - WARM_UP_S - found.seconds
    return found.agent_steps_per_s, max(0.0, other_s)
