"""The study as plain values: decisions, and each arm's figures.

Study --report--> dict, as `--json` prints it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from galamp.tools.compare.reaching import Reaching, median_time
from galamp.tools.study import plan, published, sensitivity, tuning
from galamp.tools.study.arms import of_arms
from galamp.tools.study.balls import balls, certificate
from galamp.tools.study.rows import Row
from galamp.tools.study.stable_baselines3 import PeerRun
from galamp.tools.study.study import Study

UNKNOWN_COMMIT = "unknown"


def report(study: Study) -> dict[str, Any]:
    """Return the decisions, the scales, the rates, and a row for each block, arm and game."""
    return {
        "decisions": [
            {**asdict(each.test), "corrected": each.corrected, "verdict": each.verdict}
            for each in study.decisions()
        ],
        "scales": {game: asdict(scale) for game, scale in study.scales.items()},
        "rates": tuning.worths(study.rows["tuning"], study.planned["tuning"]),
        "tuning_missing": {arm: count for arm, (count, _) in study.untried.items()},
        "to_reach": sensitivity.to_reach(study),
        "other_rules": sensitivity.other_rules(study),
        "arms": [row for name in plan.NORMALISED for row in of_arms(study, name)],
        "pong": _pong([*study.rows["pong"], *study.peers], study.pong_rates),
        "atari": published.beside(study.rows["atari"]),
        "balls": balls(study),
        "runs": {name: _of_block(study, name) for name in plan.BLOCKS},
        "left_out": [each._asdict() for each in study.left_out],
        "other_defaults": [each._asdict() for each in study.other_defaults],
        "violations": sum(row.violations or 0 for of in study.rows.values() for row in of),
        "certificate": certificate(study),
    }


def _of_block(study: Study, block: str) -> dict[str, Any]:
    """Return how much of a block is done, by which settings, and at which commits."""
    rows = study.rows[block]
    return {
        "done": len(rows),
        "planned": len(study.planned[block]),
        "settings": study.settings.get(block, ""),
        "commits": dict(Counter(row.commit or UNKNOWN_COMMIT for row in rows)),
    }


def _pong(rows: Sequence[Row | PeerRun], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    found = []
    for arm in dict.fromkeys(row.arm for row in rows):
        of = [row for row in rows if row.arm == arm]
        steps, rate = median_time([_steps(row) for row in of]), rates.get(arm)
        found.append(
            {
                "arm": arm,
                "runs": len(of),
                "reached": sum(row.reached_steps is not None for row in of),
                "steps": steps,
                "steps_per_s": rate,
                "seconds": None if steps is None or rate is None else steps / rate,
                "seconds_as_trained": median_time([_seconds(row) for row in of]),
            }
        )
    return found


def _steps(row: Row | PeerRun) -> Reaching:
    if row.reached_steps is None:
        return Reaching(row.agent_steps, False)
    return Reaching(row.reached_steps, True)


def _seconds(row: Row | PeerRun) -> Reaching:
    if row.reached_s is None:
        return Reaching(row.wall_s, False)
    return Reaching(row.reached_s, True)
