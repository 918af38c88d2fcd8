"""How close learners stay: the ball beside its certificate, by learners, environments and graph.

rows with gossip --balls--> a row for each arm and game
"""

from __future__ import annotations

from typing import Any

from galamp.tools.study import plan
from galamp.tools.study.arms import median_of
from galamp.tools.study.rows import by_game
from galamp.tools.study.study import Study

IN_NO_RESULT = ("tuning", "reference")
"""Blocks that others rest on."""


def balls(study: Study) -> list[dict[str, Any]]:
    """Return medians over the runs of each arm and game with gossip.

    Distances are of learners to their mean, root mean square, of all measurements; certificates
    are of those that have one. `relative` is over the norm of the mean of all parameters at the
    end.
    """
    found = []
    for block in (name for name in plan.BLOCKS if name not in IN_NO_RESULT):
        for arm in dict.fromkeys(cell.arm for cell in study.planned[block]):
            for game, rows in by_game(study.rows[block], arm).items():
                if any(row.ball is not None for row in rows):
                    shape = study.shapes.get(block, {}).get(arm)
                    relative = (
                        None if row.ball is None or not row.norm else row.ball / row.norm
                        for row in rows
                    )
                    found.append(
                        {
                            "block": block,
                            "arm": arm,
                            "game": game,
                            "runs": len(rows),
                            "learners": shape and shape.learners,
                            "num_envs": shape and shape.num_envs,
                            "topology": shape and shape.topology,
                            "gossip_every": shape and shape.gossip_every,
                            "ball": median_of(row.ball for row in rows),
                            "certificate": median_of(row.certificate for row in rows),
                            "relative": median_of(relative),
                        }
                    )
    return found


def certificate(study: Study) -> dict[str, int]:
    """Return what the audits of all rows with gossip have found; older rows counted only `runs`."""
    rows = [row for of in study.rows.values() for row in of if row.violations is not None]
    return {
        "runs": len(rows),
        "violations": sum(row.violations or 0 for row in rows),
        "certified": sum(row.certified or 0 for row in rows),
        "not_certified": sum(row.not_certified or 0 for row in rows),
        "faults": sum(row.faults or 0 for row in rows),
        "not_told": sum(row.certified is None for row in rows),
    }
