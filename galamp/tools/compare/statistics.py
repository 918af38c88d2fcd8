"""Statistics of few runs: interquartile mean, stratified bootstrap, probability of improvement.

    scores per task --iqm, interval--> aggregate and its uncertainty
    scores of X, of Y, per task --improvement--> P(X > Y), interval, p --> is it a difference?

Definitions are those of Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the
Statistical Precipice, and of its library rliable: runs are resampled within each task (game), and
intervals are percentiles. Tasks may have different numbers of runs. Everything random has a fixed
seed, so equal scores give equal answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from galamp.tools.compare.permutation import Numbers, Task, by_chance, p_value

Tasks = Sequence[Numbers]
"""Scores of a configuration: per task, one per run."""

LEVEL = 0.95
RESAMPLES = 5000
TOLERANCE = 1e-12
"""Probabilities of improvement that differ by less are equal."""


class Interval(NamedTuple):
    """Limits of a 95 % bootstrap interval."""

    low: float
    high: float


class Improvement(NamedTuple):
    """How surely X scores higher than Y.

    Attributes:
        probability: that a run of X scores higher than one of Y, mean over tasks; ties count half.
        interval: of the probability.
        p: chance that equal configurations differ at least so much, either way.
        smallest_p: smallest p that so few runs can reach.
    """

    probability: float
    interval: Interval
    p: float
    smallest_p: float


def iqm(scores: Numbers) -> Numbers:
    """Return the mean of the middle half of the last axis; a quarter at each end is left out."""
    count = scores.shape[-1]
    cut = count // 4
    middle = np.sort(scores, axis=-1)[..., cut : count - cut]
    return np.asarray(middle.mean(axis=-1))


def iqm_interval(tasks: Tasks) -> Interval:
    """Return the interval of the interquartile mean over all runs of all tasks."""
    return _interval(_drawn_iqm(tasks, np.random.default_rng(0)))


def iqm_difference(x: Tasks, y: Tasks) -> Interval:
    """Return the interval of X's interquartile mean less Y's, each over all runs of all tasks."""
    random = np.random.default_rng(0)
    return _interval(_drawn_iqm(x, random) - _drawn_iqm(y, random))


def improvement(x: Tasks, y: Tasks) -> Improvement:
    """Return how surely X scores higher than Y; both have the same tasks, in the same order."""
    random = np.random.default_rng(0)
    wins = [_wins(ours, theirs) for ours, theirs in zip(x, y, strict=True)]
    found = float(np.mean([each.mean() for each in wins]))
    drawn = np.mean([_resampled(each, random) for each in wins], axis=0)
    tasks = [_task(ours, theirs, len(x)) for ours, theirs in zip(x, y, strict=True)]
    p = p_value(found, by_chance(tasks, random), middle=0.5, tolerance=TOLERANCE)
    arrangements = math.prod(
        math.comb(len(ours) + len(theirs), len(ours)) for ours, theirs in zip(x, y, strict=True)
    )
    return Improvement(found, _interval(drawn), p, min(1.0, 2.0 / arrangements))


def _drawn_iqm(tasks: Tasks, random: np.random.Generator) -> Numbers:
    """Return [resamples]: the interquartile mean of runs that are resampled within each task."""
    drawn = [task[random.integers(len(task), size=(RESAMPLES, len(task)))] for task in tasks]
    return iqm(np.concatenate(drawn, axis=1))


def _interval(drawn: Numbers) -> Interval:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100.0 - tail])
    return Interval(float(low), float(high))


def _wins(x: Numbers, y: Numbers) -> Numbers:
    """Return [runs of X, runs of Y]: 1 where X scores higher, 0.5 at a tie, else 0."""
    return np.asarray((x[:, None] > y) + 0.5 * (x[:, None] == y))


def _resampled(wins: Numbers, random: np.random.Generator) -> Numbers:
    """Return the mean of `wins` for resampled runs of X and of Y."""
    rows, columns = (_counts(count, random) for count in wins.shape)
    return np.asarray(((rows @ wins) * columns).sum(axis=1) / wins.size)


def _counts(runs: int, random: np.random.Generator) -> Numbers:
    """Return [resamples, runs]: how often each run was drawn."""
    return random.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES).astype(float)


def _task(x: Numbers, y: Numbers, tasks: int) -> Task:
    """Return a task whose statistic is its part in the mean over `tasks` of the probability."""
    pooled = np.concatenate([x, y])
    wins, size = _wins(pooled, pooled), len(x) * len(y)

    def probability(ours: Numbers) -> Numbers:
        of_task = ((ours @ wins) * (1 - ours)).sum(axis=1) / size
        return np.asarray(of_task / tasks)

    return Task(len(x), len(y), probability)
