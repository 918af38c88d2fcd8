"""The study as plain values: decisions, and each arm's figures.

    rows of all blocks --study_of--> Study --report--> dict, as `--json` prints it

Scores are normalised: 0 is random actions, 1 the median of the reference runs of the same game.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from galamp.tools.compare.reaching import Reaching, median_time, share
from galamp.tools.compare.statistics import iqm_interval
from galamp.tools.study import hypotheses, plan, random_actions, stable_baselines3, tuning
from galamp.tools.study.hypotheses import Decision, Scales
from galamp.tools.study.rows import Cell, Row, by_game, read_rows
from galamp.tools.study.stable_baselines3 import PeerRun

SHARES = (0.25, 0.5, 0.75)
"""Shares of the reference of which it is counted how many runs end above."""


@dataclass(frozen=True)
class Study:
    """All that is known.

    Attributes:
        rows: block -> its rows.
        planned: block -> cells of its file.
        scales: game -> its scale.
        peers: runs of others in Pong.
    """

    rows: Mapping[str, Sequence[Row]]
    planned: Mapping[str, Sequence[Cell]]
    scales: Scales
    peers: Sequence[PeerRun] = ()

    def whole(self, block: str, *arms: str) -> bool:
        """Return whether all planned runs of these arms have a row."""
        wanted = {cell for cell in self.planned[block] if cell.arm in arms}
        return bool(wanted) and wanted <= {row.cell for row in self.rows[block]}

    def decisions(self) -> list[Decision]:
        """Return what has become of the hypotheses; without the whole reference H1, H2 are open."""
        whole, scaled = self.whole, self.whole("reference", plan.A2C_16)
        return hypotheses.decide(
            [
                hypotheses.robustness(
                    self.rows["robustness"],
                    self.scales,
                    scaled and whole("robustness", plan.A2C_256, plan.GALA_256),
                ),
                hypotheses.efficiency(
                    self.rows["efficiency"],
                    self.scales,
                    scaled and whole("efficiency", plan.A2C_64, plan.GALA_64),
                ),
                hypotheses.speed(self.rows["pong"], whole("pong", plan.A2C_PONG, plan.GALA_PONG)),
            ]
        )


def study_of(planned: Mapping[str, Sequence[Cell]]) -> Study:
    """Return what is known from the stored rows.

    Raises:
        UserError: stored rows are damaged.
    """
    rows = {name: read_rows(block.results) for name, block in plan.BLOCKS.items()}
    scales = hypotheses.scales(rows["reference"], random_actions.read())
    return Study(rows, planned, scales, stable_baselines3.read())


def report(study: Study) -> dict[str, Any]:
    """Return the decisions, the scales, the rates, and a row for each block, arm and game."""
    return {
        "decisions": [
            {**asdict(each.test), "corrected": each.corrected, "verdict": each.verdict}
            for each in study.decisions()
        ],
        "scales": {game: asdict(scale) for game, scale in study.scales.items()},
        "rates": tuning.worths(study.rows["tuning"]),
        "arms": [row for name in plan.NORMALISED for row in _arms(study, name)],
        "pong": _pong([*study.rows["pong"], *study.peers]),
        "runs": {
            name: {"done": len(study.rows[name]), "planned": len(study.planned[name])}
            for name in plan.BLOCKS
        },
        "violations": sum(row.violations or 0 for rows in study.rows.values() for row in rows),
    }


def _arms(study: Study, block: str) -> list[dict[str, Any]]:
    """Return a row for each arm over all games, then one for each game."""
    rows = study.rows[block]
    found = []
    for arm in dict.fromkeys(cell.arm for cell in study.planned[block]):
        games = {
            game: of for game, of in by_game(rows, arm).items() if game in study.scales
        }  # fmt: skip
        if games:
            found.append(_row(study.scales, block, arm, "", games))
            found += [
                _row(study.scales, block, arm, game, {game: of}) for game, of in games.items()
            ]
    return found


def _row(
    scales: Scales, block: str, arm: str, game: str, games: Mapping[str, list[Row]]
) -> dict[str, Any]:
    every = [row for of in games.values() for row in of]
    finals = _scores(games, scales, "final")
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
        "mean_of_learners": _aggregate(_scores(games, scales, "mean")),
        "area": _aggregate(areas),
        "above": {
            name: {"runs": sum(run.reached for run in runs), "interval": share(runs)}
            for name, runs in reached.items()
        },
        "raw": median([row.final for row in every if row.final is not None]) if game else None,
        "ball": _median(row.ball for row in every),
        "correlation": _median(row.correlation for row in every),
        "sharpness": [
            _median(None if row.sharpness is None else row.sharpness[side] for row in every)
            for side in (0, 1)
        ],
        "wall_s": median([row.wall_s for row in every]),
    }


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that there are; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _scores(games: Mapping[str, list[Row]], scales: Scales, name: str) -> list[hypotheses.Numbers]:
    tasks = []
    for game, rows in games.items():
        found = [getattr(row, name) for row in rows]
        tasks.append(np.array([scales[game].of(each) for each in found if each is not None]))
    return tasks


def _aggregate(tasks: Sequence[hypotheses.Numbers]) -> dict[str, Any] | None:
    if not all(len(task) for task in tasks):
        return None
    several = min(map(len, tasks)) > 1
    return {
        "iqm": hypotheses.iqm_of(tasks),
        "interval": iqm_interval(tasks) if several else None,
    }


def _pong(rows: Sequence[Row | PeerRun]) -> list[dict[str, Any]]:
    found = []
    for arm in dict.fromkeys(row.arm for row in rows):
        of = [row for row in rows if row.arm == arm]
        steps = [
            Reaching(row.agent_steps, False)
            if row.reached_steps is None
            else Reaching(row.reached_steps, True)
            for row in of
        ]
        found.append(
            {
                "arm": arm,
                "runs": len(of),
                "reached": sum(run.reached for run in steps),
                "steps": median_time(steps),
                "seconds": median_time([hypotheses.times(row) for row in of]),
            }
        )
    return found
