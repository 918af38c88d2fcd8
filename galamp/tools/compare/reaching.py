"""Statistics of reaching a score: in how many runs, and how soon, though some end before they do.

    runs of X, of Y, per task --share, median_time, log_rank, exact_test--> table, sentence

A run that ends below the score is censored: it would have taken longer than it lasted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from galamp.tools.compare.statistics import LEVEL, Interval


class Reaching(NamedTuple):
    """One run.

    Attributes:
        time: until it reached the score, or else how long it lasted, in any unit.
        reached: whether it did.
    """

    time: float
    reached: bool


Runs = Sequence[Reaching]


def share(runs: Runs) -> Interval:
    """Return Wilson's 95 % interval of the share of runs that reach the score (Wilson 1927)."""
    count, found = len(runs), sum(run.reached for run in runs) / len(runs)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    middle = found + z * z / (2 * count)
    half = z * math.sqrt(found * (1 - found) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return Interval(max(0.0, low), min(1.0, high))


def median_time(runs: Runs) -> float | None:
    """Return the time by which half of all runs reach the score (Kaplan and Meier 1958).

    None if fewer than half are known to.
    """
    left = 1.0
    for time in sorted({run.time for run in runs if run.reached}):
        at_risk = sum(run.time >= time for run in runs)
        left *= 1 - sum(run.reached and run.time == time for run in runs) / at_risk
        if left <= 0.5 + 1e-12:
            return time
    return None


def log_rank(x: Sequence[Runs], y: Sequence[Runs]) -> float | None:
    """Return the chance that equal configurations differ so much in time (Mantel 1966), two-sided.

    Args:
        x: runs of one configuration, per task; runs are compared within a task only.
        y: those of the other, of the same tasks.

    Returns:
        p, by the normal approximation; None where nothing can differ: no run reaches the score, or
        none of a task that both have.
    """
    excess = variance = 0.0
    for ours, theirs in zip(x, y, strict=True):
        both = [*ours, *theirs]
        for time in {run.time for run in both if run.reached}:
            at_risk = sum(run.time >= time for run in both)
            of_ours = sum(run.time >= time for run in ours) / at_risk
            events = sum(run.reached and run.time == time for run in both)
            excess += sum(run.reached and run.time == time for run in ours) - events * of_ours
            if at_risk > 1:
                spread = of_ours * (1 - of_ours) * (at_risk - events) / (at_risk - 1)
                variance += events * spread
    return math.erfc(abs(excess) / math.sqrt(2 * variance)) if variance > 0 else None


def exact_test(x: Sequence[Runs], y: Sequence[Runs]) -> float:
    """Return the chance that equal configurations differ so much in who reaches the score.

    With one task it is Fisher's exact test (1935), two-sided; with several it is the exact form of
    that of Mantel and Haenszel (1959): given how many runs of a task reach the score, how many of
    them are X's follows a hypergeometric distribution, and the tasks' are added.
    """
    chances, found = np.ones(1), 0
    for ours, theirs in zip(x, y, strict=True):
        reached = sum(run.reached for run in (*ours, *theirs))
        of_task = [
            math.comb(len(ours), k) * math.comb(len(theirs), reached - k)
            for k in range(min(len(ours), reached) + 1)
        ]
        chances = np.convolve(
            chances, np.array(of_task) / math.comb(len(ours) + len(theirs), reached)
        )
        found += sum(run.reached for run in ours)
    # Sums of other orders differ in their last digits: those are equally likely.
    return float(min(1.0, chances[chances <= chances[found] * (1 + 1e-9)].sum()))
