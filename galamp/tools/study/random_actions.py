"""Scores of random actions in MinAtar's games: the zero of the study's scales.

games --play--> mean score of each --> results/random.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from galamp.core.disk import read_limited, replace_json
from galamp.core.errors import UserError
from galamp.core.json_values import is_number, shown
from galamp.tools.bench import minatar
from galamp.tools.study import plan

FILE = plan.RESULTS / "random.json"
MAX_BYTES = 2**16
LARGEST = 1e9


def mean_scores() -> dict[str, float]:
    """Play `plan.RANDOM_EPISODES` games of each with uniformly random actions.

    Raises:
        ImportError: minatar is not installed.
    """
    return {game: _mean_score(game) for game in plan.GAMES}


def _mean_score(game: str) -> float:
    env = getattr(minatar, game)()
    random = np.random.default_rng(0)
    scores = []
    for episode in range(plan.RANDOM_EPISODES):
        env.reset(seed=episode)
        score, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(int(random.integers(env.action_space.n)))
            score += float(reward)
            ended = terminated or truncated
        scores.append(score)
    return float(np.mean(scores))


def write(scores: Mapping[str, float], path: Path = FILE) -> None:
    """Keep the scores."""
    replace_json(path, {"episodes": plan.RANDOM_EPISODES, "mean": dict(scores)})


def read(path: Path = FILE) -> dict[str, float]:
    """Return the kept scores; none if there are none.

    Raises:
        UserError: they cannot be read, or one is no number: without it, hypotheses would be decided
            on fewer games.
    """
    try:
        found = json.loads(read_limited(path, MAX_BYTES))["mean"].items()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    for game, score in found:
        if not is_number(score, -LARGEST, LARGEST):
            raise UserError(f"{path}: damaged: {game}: expected a number, got {shown(score)}")
    return dict(found)
