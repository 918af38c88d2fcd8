"""Statistics of few runs: interquartile mean, stratified bootstrap, probability of improvement.

    scores per task --iqm, interval--> aggregate and its uncertainty
    scores of X, of Y, per task --improvement--> P(X > Y), interval, p --> is it a difference?

Definitions are those of Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the
Statistical Precipice, and of its library rliable: runs are resampled within each task (game), and
intervals are percentiles. Tasks may have different numbers of runs. Everything random has a fixed
seed, so equal scores give equal answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Tasks = Sequence[Numbers]
"""Scores of a configuration: per task, one per run."""

LEVEL = 0.95
RESAMPLES = 5000
MAX_ARRANGEMENTS = 20_000
"""Up to so many arrangements of runs, a permutation test counts all; of more, it draws so many."""


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
    chance = _by_chance(x, y, random)
    p = float(np.mean(np.abs(chance - 0.5) >= abs(found - 0.5) - 1e-12))
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


def _by_chance(x: Tasks, y: Tasks, random: np.random.Generator) -> Numbers:
    """Return the probability of improvement for arrangements of the runs that ignore who is whose.

    All arrangements are taken, of a task and of all tasks together, or as many as are allowed.
    """
    total = np.zeros(1)
    for ours, theirs in zip(x, y, strict=True):
        of_task = _arrangements(ours, theirs, random) / len(x)
        if len(total) * len(of_task) <= MAX_ARRANGEMENTS:
            total = np.add.outer(total, of_task).ravel()
        else:
            drawn = [random.choice(part, MAX_ARRANGEMENTS) for part in (total, of_task)]
            total = drawn[0] + drawn[1]
    return total


def _arrangements(x: Numbers, y: Numbers, random: np.random.Generator) -> Numbers:
    """Return the probability of improvement of a task for all, or drawn, choices of X's runs."""
    pooled = np.concatenate([x, y])
    wins = _wins(pooled, pooled)
    count, size = len(pooled), len(x)
    if math.comb(count, size) <= MAX_ARRANGEMENTS:
        chosen = np.array(list(itertools.combinations(range(count), size)))
    else:
        chosen = np.argsort(random.random((MAX_ARRANGEMENTS, count)), axis=1)[:, :size]
    ours = np.zeros((len(chosen), count))
    np.put_along_axis(ours, chosen, 1.0, axis=1)
    return np.asarray(((ours @ wins) * (1 - ours)).sum(axis=1) / (size * len(y)))
