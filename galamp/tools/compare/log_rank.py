"""The log-rank test of how soon runs reach a score, by permutations.

    runs of X, of Y, per task --log_rank--> X's events beyond what is expected, p

Counted is what Mantel 1966 counts: the runs of X that reach the score, less those that would if at
every time each run that is still on its way were as likely to. Its normal approximation is wrong by
far for few runs: three that are all before three others get 0.025, though it happens to equal
configurations in 2 of 20 arrangements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from galamp.tools.compare.permutation import Numbers, Task, by_chance, p_value
from galamp.tools.compare.reaching import Runs

TOLERANCE = 1e-9
"""Excesses that differ by less are equal: they are sums of some hundred fractions."""


class LogRank(NamedTuple):
    """How two configurations differ in how soon their runs reach a score.

    Attributes:
        excess: runs of X that reach it, less those expected; above 0 where X is sooner.
        p: chance that equal configurations differ so much, two-sided; None where nothing can
            differ: no run reaches the score, or none of a task that both have.
    """

    excess: float
    p: float | None


def log_rank(x: Sequence[Runs], y: Sequence[Runs]) -> LogRank:
    """Return how soon the runs of X reach the score, and how surely that is no chance.

    Args:
        x: runs of one configuration, per task; runs are compared within a task only.
        y: those of the other, of the same tasks.
    """
    tasks, excess, differ = [], 0.0, False
    for ours, theirs in zip(x, y, strict=True):
        if ours and theirs:
            of_runs = scores([*ours, *theirs])
            tasks.append(Task(len(ours), len(theirs), partial(_sum, of_runs)))
            excess += float(of_runs[: len(ours)].sum())
            differ = differ or float(np.ptp(of_runs)) > TOLERANCE
    if not differ:
        return LogRank(0.0, None)
    chance = by_chance(tasks, np.random.default_rng(0))
    return LogRank(excess, p_value(excess, chance, middle=0.0, tolerance=TOLERANCE))


def scores(runs: Runs) -> Numbers:
    """Return each run's part [runs] in the excess of whoever has it; together they are 0.

    It is 1 if the run reaches the score, less the hazard up to its time (Nelson 1972).
    """
    times, reached = np.array([run.time for run in runs]), np.array([run.reached for run in runs])
    events = np.unique(times[reached])
    hazard = [np.sum(reached & (times == at)) / np.sum(times >= at) for at in events]
    until = np.searchsorted(events, times, side="right")
    return np.asarray(reached - np.concatenate([[0.0], np.cumsum(hazard)])[until])


def _sum(of_runs: Numbers, members: Numbers) -> Numbers:
    """Return [arrangements]: the sum over X's runs."""
    return np.asarray(members @ of_runs)
