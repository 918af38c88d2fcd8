"""Which learning rate each method and size takes: the rule of block tuning.

    rows --chosen--> arm without its rate -> learning rate --misfits--> lines on the files

A rate's worth is the mean over games of its score over the best score of any rate of the same arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from galamp.tools.study import plan
from galamp.tools.study.rows import Row
from galamp.tools.sweep.planned import PlannedRun

Worths = dict[str, dict[float, float]]
"""Arm -> learning rate -> its worth."""


def worths(rows: Sequence[Row]) -> Worths:
    """Return the worth of each rate that was tried, of arms with a score for every game."""
    scores: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        arm, _, rate = row.arm.rpartition(plan.RATE)
        if arm and row.final is not None:
            scores.setdefault(arm, {}).setdefault(float(rate), {})[row.game] = row.final
    found: Worths = {}
    for arm, of in sorted(scores.items()):
        games = sorted({game for each in of.values() for game in each})
        if all(len(each) == len(games) for each in of.values()):
            best = {game: max(each[game] for each in of.values()) or 1.0 for game in games}
            found[arm] = {
                rate: float(np.mean([each[game] / best[game] for game in games]))
                for rate, each in sorted(of.items())
            }
    return found


def chosen(rows: Sequence[Row]) -> dict[str, float]:
    """Return the learning rate of each arm that was tuned; of equal ones the lower."""
    return {arm: max(sorted(of), key=of.__getitem__) for arm, of in worths(rows).items()}


def misfits(rates: Mapping[str, float], runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield arms of a block that were tuned, but have another rate in its file, a line each."""
    for run in {run.arm: run for run in runs}.values():
        rate = run.config.algorithm.learning_rate
        if run.arm in rates and rate != rates[run.arm]:
            yield f"{run.arm}: learning rate {rate}, but tuning chose {rates[run.arm]:g}"
