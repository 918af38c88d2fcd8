"""Which learning rate each method and size takes: the rule of block tuning.

    rows --worths--> arm without its rate -> learning rate -> worth --chosen--> one rate for each
    rows, planned runs --missing--> arms whose rate another run could still change

A rate's worth is the mean over games of its score over the best score of any rate of the same arm.
A rate is chosen once all that were to be tried have a score for every game.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from galamp.tools.study import plan
from galamp.tools.study.rows import Cell, Row

Worths = dict[str, dict[float, float]]
"""Arm -> learning rate -> its worth."""


def worths(rows: Sequence[Row], planned: Collection[Cell]) -> Worths:
    """Return the worth of each rate that has a score for every game, beside the others so far.

    Args:
        rows: of block tuning.
        planned: its runs.
    """
    games = _games(planned)
    scores: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        arm, rate = split(row.arm)
        if row.final is not None and arm in games:
            scores.setdefault(arm, {}).setdefault(rate, {})[row.game] = row.final
    found: Worths = {}
    for arm, of in sorted(scores.items()):
        whole = {rate: each for rate, each in sorted(of.items()) if each.keys() >= games[arm]}
        if whole:
            best = {game: max(each[game] for each in whole.values()) or 1.0 for game in games[arm]}
            found[arm] = {
                rate: float(np.mean([each[game] / best[game] for game in sorted(best)]))
                for rate, each in whole.items()
            }
    return found


def missing(rows: Iterable[Row], planned: Collection[Cell]) -> dict[str, tuple[int, int]]:
    """Return how many planned runs of each tuned arm have no score, and how many are planned."""
    done = {row.cell for row in rows if row.final is not None}
    found: dict[str, tuple[int, int]] = {}
    for cell in planned:
        arm = split(cell.arm)[0]
        count, every = found.get(arm, (0, 0))
        found[arm] = count + (cell not in done), every + 1
    return found


def chosen(rows: Sequence[Row], planned: Collection[Cell]) -> dict[str, float]:
    """Return the learning rate of each arm of which no run is missing; of equal ones the lower."""
    whole = {arm for arm, (count, _) in missing(rows, planned).items() if not count}
    return {arm: best(of) for arm, of in worths(rows, planned).items() if arm in whole}


def best(of: Mapping[float, float]) -> float:
    """Return the rate with the greatest worth, of equal ones the lower."""
    return max(sorted(of), key=of.__getitem__)


def split(name: str) -> tuple[str, float]:
    """Return the arm and the learning rate that the name of an arm of block tuning is made of.

    The rate is NaN, and the arm has the whole name, if it is made of something else.
    """
    arm, _, rate = name.rpartition(plan.RATE)
    try:
        return arm, float(rate)
    except ValueError:
        return name, math.nan


def _games(planned: Iterable[Cell]) -> dict[str, set[str]]:
    """Return the games of each tuned arm."""
    found: dict[str, set[str]] = {}
    for cell in planned:
        found.setdefault(split(cell.arm)[0], set()).add(cell.game)
    return found
