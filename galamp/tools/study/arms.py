"""Figures of each arm: scores, areas, shares of runs, over all games and for each.

    rows of a block --of_arms--> a row for each arm and game

Scores are normalised: 0 is random actions, 1 the median of the reference runs of the same game.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from galamp.tools.compare.permutation import Numbers
from galamp.tools.compare.reaching import Reaching, share
from galamp.tools.compare.statistics import iqm_interval
from galamp.tools.study import hypotheses
from galamp.tools.study.rows import Row, by_game
from galamp.tools.study.scale import Scales
from galamp.tools.study.study import Study

SHARES = (0.25, 0.5, 0.75)
"""Shares of the reference of which it is counted how many runs end above."""

Games = Mapping[str, Sequence[Row]]
"""Game -> rows of one arm."""


def of_arms(study: Study, block: str) -> list[dict[str, Any]]:
    """Return a row for each arm over all its games, then one for each game.

    Over all games, only seeds that every one has count, so that none weighs more than another;
    without such a seed there is no row.
    """
    found = []
    for arm in dict.fromkeys(cell.arm for cell in study.planned[block]):
        games = {
            game: of
            for game, of in by_game(study.rows[block], arm).items()
            if game in study.scales
        }  # fmt: skip
        planned = {cell.game for cell in study.planned[block] if cell.arm == arm}
        if equal := _of_common_seeds(games, planned):
            found.append(_row(study.scales, block, arm, "", equal))
        found += [_row(study.scales, block, arm, game, {game: of}) for game, of in games.items()]
    return found


def _of_common_seeds(games: Games, planned: set[str]) -> Games:
    """Return the rows of the seeds that every planned game has; empty if there are none."""
    if not planned or not planned <= games.keys():
        return {}
    seeds = set.intersection(*({row.seed for row in of} for of in games.values()))
    if not seeds:
        return {}
    return {game: [row for row in of if row.seed in seeds] for game, of in games.items()}


def _row(scales: Scales, block: str, arm: str, game: str, games: Games) -> dict[str, Any]:
    every = [row for of in games.values() for row in of]
    finals = _scores(games, scales, lambda row: row.final)
    reached = {
        f"{of:g}": [Reaching(1.0, bool(score > of)) for task in finals for score in task]
        for of in SHARES
    }
    areas = [
        np.array([hypotheses.area(row, scales[name]) for row in of]) for name, of in games.items()
    ]
    return {
        "block": block,
        "arm": arm,
        "game": game,
        "runs": len(every),
        "final": _aggregate(finals),
        "mean_of_learners": _aggregate(_scores(games, scales, lambda row: row.mean)),
        "learners": _of_learners(games, scales),
        "area": _aggregate(areas),
        "above": {
            name: {"runs": sum(run.reached for run in runs), "interval": share(runs)}
            for name, runs in reached.items()
        },
        "raw": median_of(row.final for row in every) if game else None,
        "ball": median_of(row.ball for row in every),
        "correlation": median_of(row.correlation for row in every),
        "sharpness": [
            median_of(None if row.sharpness is None else row.sharpness[side] for row in every)
            for side in (0, 1)
        ],
        "wall_s": median([row.wall_s for row in every]),
    }


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that there are; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _of_learners(games: Games, scales: Scales) -> dict[str, Any] | None:
    """Return what the learners of a run score on average, and the best of them.

    Of learners that do not gossip: that the best is taken favours them, as nobody knows it before.
    None if a row does not tell.
    """
    if not all(row.learners for of in games.values() for row in of):
        return None
    return {
        "mean": _aggregate(_scores(games, scales, lambda row: fmean(row.learners or ()))),
        "best": _aggregate(_scores(games, scales, lambda row: max(row.learners or ()))),
    }


def _scores(games: Games, scales: Scales, of: Callable[[Row], float | None]) -> list[Numbers]:
    tasks = []
    for game, rows in games.items():
        found = [of(row) for row in rows]
        tasks.append(np.array([scales[game].of(each) for each in found if each is not None]))
    return tasks


def _aggregate(tasks: Sequence[Numbers]) -> dict[str, Any] | None:
    if not all(len(task) for task in tasks):
        return None
    several = min(map(len, tasks)) > 1
    return {
        "iqm": hypotheses.iqm_of(tasks),
        "interval": iqm_interval(tasks) if several else None,
    }
