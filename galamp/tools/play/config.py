"""Settings of `galamp record` and `galamp play`: who plays, and how."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.config import ResourceConfig
from galamp.core.settings import option
from galamp.tools.evaluation.config import ENV_ID, NETWORK, given_once_more, wrapper_option

MAX_STEPS = 20_000


@dataclass(frozen=True)
class PlayConfig:
    """What both commands have in common."""

    episodes: int = option(1, "whole games", low=1, high=10_000)
    checkpoint: str = option(
        "",
        "best, latest, or the name of one in RUN/checkpoints (default: the best if there is one, "
        "else the latest)",
    )
    learner: str = option("mean", "whose parameters: a learner's rank, or the mean of all")
    greedy: bool = option(
        False, "take the most probable action instead of drawing one (can stall for ever)"
    )
    seed: int = option(1, "seed of everything random", low=0, high=2**31 - 1)
    max_steps: int = option(
        MAX_STEPS, "end after so many steps of all games", unit="agent steps", low=1, high=10**9
    )
    env_id: str = given_once_more(ENV_ID)
    wrapper: tuple[str, ...] = wrapper_option()
    network: str = given_once_more(NETWORK)
    start_timeout_s: float = option(
        ResourceConfig.start_timeout_s,
        "the environment may take so long to be made, to be reset and to take its first step",
        unit="s",
        low=1.0,
    )
