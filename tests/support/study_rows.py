"""Rows of the study whose runs never were: for tests of what is decided by rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from galamp.tools.study import plan, pong_rates
from galamp.tools.study.pong_rates import ArmRate
from galamp.tools.study.rows import Row
from galamp.tools.study.scale import Scale
from galamp.tools.sweep.planned import PlannedRun

GAMES = ("asterix", "breakout", "freeway")
SCALES = {game: Scale(random=1.0, reference=5.0) for game in GAMES}
SEEDS = range(1, 7)
TUNED = sorted({tuned for of in plan.RATES.values() for tuned in of.values()})
RATE = 0.002
RATES = {block: dict.fromkeys(of, RATE) for block, of in plan.RATES.items()}
"""Learning rates of blocks' arms that `tuning_rows` chooses."""
STEPS_PER_S = {plan.GALA_PONG: 2.0, plan.A2C_PONG: 2.0}
"""Agent steps per second of H3's arms."""


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
                reached_s=100.0 + later + run.seed, reached_steps=100 + int(later) + run.seed,
            )
        )  # fmt: skip
    return found


def tuning_rows() -> list[Row]:
    """Rows of block tuning that choose `RATE` for every arm, of two rates."""
    return [
        row(f"{arm}{plan.RATE}{rate:g}", game, 1000, 1000 * rate)
        for arm in TUNED
        for rate in (RATE / 2, RATE)
        for game in GAMES
    ]


def tuning_of(runs: Mapping[str, Iterable[PlannedRun]]) -> list[Row]:
    """Rows of planned runs of block tuning that choose the rates which the other files have."""
    taken = {
        tuned: run.config.algorithm.learning_rate
        for block, of in plan.RATES.items()
        for run in runs[block]
        if (tuned := of[run.arm]) == run.arm
    }
    return [
        row(run.arm, plan.game_of(run.env_id), run.seed, score, hash=run.hash)
        for run in runs["tuning"]
        for rate in [run.config.algorithm.learning_rate]
        for score in [9.0 if rate == taken[run.arm.rpartition(plan.RATE)[0]] else 3.0]
    ]


def write(block: str, kept: Sequence[Row]) -> None:
    """Store these rows of a block, and no others."""
    text = "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in kept)
    plan.BLOCKS[block].results.write_text(text)


def pong_rates_of(runs: Iterable[PlannedRun], **other: object) -> list[ArmRate]:
    """Rates of the arms of block pong, all the same."""
    return [
        dataclasses.replace(
            ArmRate(arm, run.hash, (1.0, 2.0, 3.0), "a machine", "abc"),
            **other,  # type: ignore[arg-type]
        )
        for arm, run in pong_rates.first_runs(runs).items()
    ]


def write_all(runs: Mapping[str, Sequence[PlannedRun]]) -> dict[str, list[Row]]:
    """Store a row of every run of the blocks that decide, or that these rest on.

    The rates of Pong's arms, too.
    """
    pong_rates.write(pong_rates_of(runs["pong"]), plan.RESULTS / pong_rates.FILE.name)
    kept = {name: rows_of(runs[name])
            for name in ("reference", "robustness", "efficiency", "pong")}  # fmt: skip
    kept["tuning"] = tuning_of(runs)
    for name, of in kept.items():
        write(name, of)
    return kept
