"""Permutation tests: how often equal configurations would differ at least so much.

    runs of X and of Y, per task --by_chance--> statistic of arrangements --p_value--> p

If X and Y are equal, any of a task's runs may be X's. All such arrangements are counted, or as many
as are allowed are drawn; runs stay within their task (Good 2005, Permutation, Parametric and
Bootstrap Tests of Hypotheses).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

MAX_ARRANGEMENTS = 20_000
"""Up to so many arrangements of runs, a permutation test counts all; of more, it draws so many."""


class Task(NamedTuple):
    """One task: how many of its runs are X's and Y's, and what is counted.

    Attributes:
        ours: number of X's runs.
        theirs: number of Y's.
        statistic: takes [arrangements, runs], 1 where a run is X's, and returns [arrangements].
    """

    ours: int
    theirs: int
    statistic: Callable[[Numbers], Numbers]


class ByChance(NamedTuple):
    """The statistic, summed over tasks, of arrangements of the runs.

    Attributes:
        values: one for each arrangement.
        drawn: whether they are some of all, drawn at random.
    """

    values: Numbers
    drawn: bool


def by_chance(tasks: Sequence[Task], random: np.random.Generator) -> ByChance:
    """Return the statistic for arrangements of the runs that ignore whose they are."""
    total, drawn = np.zeros(1), False
    for task in tasks:
        members, some = _arrangements(task.ours, task.ours + task.theirs, random)
        of_task = task.statistic(members)
        if len(total) * len(of_task) <= MAX_ARRANGEMENTS:
            total = np.add.outer(total, of_task).ravel()
        else:
            parts = [random.choice(part, MAX_ARRANGEMENTS) for part in (total, of_task)]
            total, some = parts[0] + parts[1], True
        drawn = drawn or some
    return ByChance(total, drawn)


def p_value(found: float, chance: ByChance, *, middle: float, tolerance: float) -> float:
    """Return the chance of a statistic at least as far from its middle, either way.

    The runs as they are count as one arrangement more where others were drawn, so that p is never
    0 (Phipson and Smyth 2010).

    Args:
        found: the statistic of the runs as they are.
        chance: of other arrangements.
        middle: what equal configurations have on average.
        tolerance: how far equal sums may differ by rounding.
    """
    as_far = np.abs(chance.values - middle) >= abs(found - middle) - tolerance
    return float((as_far.sum() + chance.drawn) / (len(as_far) + chance.drawn))


def _arrangements(ours: int, runs: int, random: np.random.Generator) -> tuple[Numbers, bool]:
    """Return [arrangements, runs], 1 where a run is X's, and whether they are drawn."""
    drawn = math.comb(runs, ours) > MAX_ARRANGEMENTS
    if drawn:
        chosen = np.argsort(random.random((MAX_ARRANGEMENTS, runs)), axis=1)[:, :ours]
    else:
        chosen = np.array(list(itertools.combinations(range(runs), ours)), dtype=np.int64)
    members = np.zeros((len(chosen), runs))
    np.put_along_axis(members, chosen.reshape(len(chosen), ours), 1.0, axis=1)
    return members, drawn
