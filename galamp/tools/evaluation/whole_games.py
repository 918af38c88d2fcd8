"""Whole games: the training's environment, changed to score games by their true rewards.

    EnvironmentConfig of a training --whole_games, with_step_limit--> that of an evaluation

Pure; used by `galamp eval`, and by agents in users' programs.
"""

from __future__ import annotations

from dataclasses import replace

from galamp.core.config import EnvironmentConfig
from galamp.environments.base import EnvironmentSpec
from galamp.tools.evaluation.config import STEP_LIMIT


def whole_games(environment: EnvironmentConfig) -> EnvironmentConfig:
    """Return the environment with games that only their end ends, and rewards that are true."""
    return replace(environment, life_loss_ends=False, clip_rewards=False)


def with_step_limit(environment: EnvironmentConfig, spec: EnvironmentSpec) -> EnvironmentConfig:
    """Return the environment, with `STEP_LIMIT` where a game could run for ever."""
    if spec.max_episode_steps is not None or environment.vector:
        return environment
    return replace(environment, max_episode_steps=STEP_LIMIT)
