"""Published scores of the paper's six games after 10 million agent steps, beside block atari's.

    rows of the block --beside--> dicts, one for each arm and game

Mean scores of RL Baselines3 Zoo's benchmark, one run of Stable-Baselines3 each, without sticky
actions: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md. Implementations
differ: other sources have A2C at 3,600 to 14,500 in Qbert, and at 750 to 1,700 in Seaquest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from galamp.tools.evaluation.references import REFERENCES
from galamp.tools.study.rows import Row


class Published(NamedTuple):
    """One game: its ROM, and the scores by algorithm."""

    rom: str
    a2c: float
    ppo: float


GAMES = {
    "beamrider": Published("beam_rider", 2890, 3397),
    "breakout": Published("breakout", 280, 398),
    "pong": Published("pong", 17.3, 21.0),
    "qbert": Published("qbert", 3882, 15627),
    "seaquest": Published("seaquest", 1721, 1784),
    "spaceinvaders": Published("space_invaders", 627, 960),
}
ALGORITHMS = {"gala-atari": "a2c", "ppo-atari": "ppo"}
"""Arm -> its algorithm, in lower case; of others nothing is published here."""


def beside(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return each run's score, in percent of a human's too, beside the published one, or None."""
    found = []
    for row in rows:
        game, human = GAMES.get(row.game), None
        if game is not None and row.final is not None:
            human = REFERENCES[game.rom].human_normalised(row.final)
        known = game is not None and row.arm in ALGORITHMS
        found.append(
            {
                "arm": row.arm,
                "game": row.game,
                "seed": row.seed,
                "score": row.final,
                "of_the_mean": row.mean,
                "human_normalised_percent": human,
                "published": getattr(game, ALGORITHMS[row.arm]) if known else None,
                "agent_steps": row.agent_steps,
                "wall_s": row.wall_s,
            }
        )
    return found
