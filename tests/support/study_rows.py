"""Rows of the study whose runs never were: for tests of what is decided by rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from galamp.tools.study import plan
from galamp.tools.study.rows import Row
from galamp.tools.study.scale import Scale
from galamp.tools.sweep.planned import PlannedRun

GAMES = ("asterix", "breakout", "freeway")
SCALES = {game: Scale(random=1.0, reference=5.0) for game in GAMES}
SEEDS = range(1, 7)


def row(arm: str, game: str, seed: int, score: float, **other: object) -> Row:
    """A row of a run whose score was the same from its first episodes to its end."""
    made = Row(
        arm, game, seed, "0" * 16, "0.1.0", 1000, 1000, 60.0,
        (None, *[score] * (plan.GRID_POINTS - 1)), None, None, score, score, 0, 0.01, 1.0,
    )  # fmt: skip
    return dataclasses.replace(made, **other)  # type: ignore[arg-type]


def rows(arm: str, score: Callable[[str, int], float]) -> list[Row]:
    """Rows of all games and seeds."""
    return [row(arm, game, seed, score(game, seed)) for game in GAMES for seed in SEEDS]


def small(game: str, seed: int) -> float:
    """Scores around a fifth of the reference's."""
    return 1.5 + 0.1 * seed


def large(game: str, seed: int) -> float:
    """Scores around the reference's."""
    return 4.5 + 0.1 * seed


def rows_of(runs: Iterable[PlannedRun]) -> list[Row]:
    """Rows of planned runs: GALA's are as good as the reference's, others far below, and later."""
    found = []
    for run in runs:
        good = run.arm.startswith("gala") or run.arm == plan.A2C_16
        score, later = (8.0 if good else 3.0) + 0.01 * (run.seed % 100), 0.0 if good else 100.0
        found.append(
            row(
                run.arm, plan.game_of(run.env_id), run.seed, score, hash=run.hash,
                reached_s=100.0 + later + run.seed, reached_steps=500,
            )
        )  # fmt: skip
    return found
