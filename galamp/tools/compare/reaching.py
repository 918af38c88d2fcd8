"""Statistics of reaching a score: in how many runs, and how soon, though some end before they do.

    mean returns of a run --of_full_means--> those that can reach a score
    runs of X, of Y, per task --share, median_time, median_ratio, exact_test--> table, sentence

A run that ends below the score is censored: it would have taken longer than it lasted. How surely
times differ is tested in `log_rank.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from galamp.telemetry.snapshot import EPISODES_IN_MEAN
from galamp.tools.compare.permutation import Numbers
from galamp.tools.compare.statistics import LEVEL, RESAMPLES, Interval


class Reaching(NamedTuple):
    """One run.

    Attributes:
        time: until it reached the score, or else how long it lasted, in any unit.
        reached: whether it did.
    """

    time: float
    reached: bool


Runs = Sequence[Reaching]


class Ratio(NamedTuple):
    """Median time of one configuration over that of another.

    Attributes:
        ratio: of the runs as they are.
        interval: 95 % bootstrap interval; its upper limit may be infinite.
    """

    ratio: float
    interval: Interval


def of_full_means(
    steps: Numbers, returns: Numbers, steps_of_counts: Numbers, counts: Numbers
) -> Numbers:
    """Return the mean returns, minus infinity where they are of fewer episodes than a whole mean's.

    Args:
        steps: agent steps at the returns.
        returns: mean returns of the last episodes.
        steps_of_counts: agent steps at the counts.
        counts: number of episodes so far.
    """
    if not len(counts):
        return np.full(len(returns), -np.inf)
    whole = np.interp(steps, steps_of_counts, counts) >= EPISODES_IN_MEAN
    return np.where(whole, returns, -np.inf)


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


def median_ratio(x: Runs, y: Runs) -> Ratio | None:
    """Return how many times Y's median time X's is; None where fewer than half of one reach it.

    Runs are resampled within X and within Y. Where fewer than half of a resampled one reach the
    score, its median is beyond any time; where neither has one, the ratio may be anything, and
    counts as the least at the lower limit, as the greatest at the upper one.
    """
    medians = median_time(x), median_time(y)
    if medians[0] is None or medians[1] is None or medians[1] <= 0:
        return None
    random = np.random.default_rng(0)
    ours, theirs = (_drawn_medians(runs, random) for runs in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = ours / theirs
    either = np.isnan(ratios)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = (
        np.percentile(np.where(either, other, ratios), at, method="inverted_cdf")
        for at, other in ((tail, 0.0), (100.0 - tail, np.inf))
    )
    return Ratio(medians[0] / medians[1], Interval(float(low), float(high)))


def _drawn_medians(runs: Runs, random: np.random.Generator) -> Numbers:
    """Return [resamples]: the median time of resampled runs, infinite where there is none."""
    drawn = random.integers(len(runs), size=(RESAMPLES, len(runs)))
    every, which = np.unique(np.sort(drawn, axis=1), axis=0, return_inverse=True)
    medians = [median_time([runs[at] for at in each]) for each in every]
    return np.array([np.inf if each is None else each for each in medians])[which.ravel()]


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
