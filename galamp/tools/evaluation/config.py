"""Settings of an evaluation: default, range and meaning of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from galamp.core import keywords
from galamp.core.config import ResourceConfig
from galamp.core.settings import CLASS, option

EACH: Literal["each"] = "each"
"""Value for every learner, and the mean of all."""


STEP_LIMIT = 100_000
"""Agent steps after which a game is cut in environments without any limit."""


def given_once_more(what: str) -> Any:
    """Declare a setting for user code that a checkpoint names: the command line names it, too."""
    return option(
        "",
        f"{what} that the checkpoint names, given once more: a checkpoint alone does not decide "
        "what code is run",
    )


ENV_ID = "package.module:factory or package:EnvId-v0"
NETWORK = "package.module:factory of the network"
"""What is given once more."""


def wrapper_option() -> Any:
    """Declare the setting that names a checkpoint's wrappers once more, for each of the tools."""
    return option(
        (),
        "package.module:Class of each wrapper that the checkpoint names, given once more, in its "
        "order: a checkpoint alone does not decide what code is run",
        texts=keywords.names,
        user_code=CLASS,
        metavar=CLASS,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation; None: as in training."""

    episodes: int = option(30, "whole games to play per agent", low=1, high=1_000_000)
    learner: str = option(
        "mean",
        "whose parameters: a learner's rank, the mean of all, or each (every learner and the mean)",
    )
    which: str | None = option(
        None,
        "checkpoint of a run folder (default: the best if there is one, else the latest)",
        names=("best", "latest"),
    )
    greedy: bool = option(
        False,
        "take the most probable action instead of drawing one (can stall where a game waits for "
        "FIRE, or else for ever: see --fire-reset, --max-episode-steps)",
    )
    env_id: str = given_once_more(ENV_ID)
    wrapper: tuple[str, ...] = wrapper_option()
    network: str = given_once_more(NETWORK)
    noop_max: int | None = option(
        None,
        "Atari: a game begins with 0 to N-1 no-op frames, drawn uniformly (0, 1: none; default: as "
        "trained)",
        low=0,
        high=1000,
    )
    fire_reset: bool | None = option(
        None,
        "Atari: press FIRE at the start of a game (default: as trained; without, an agent that "
        "never presses it never begins in many games)",
    )
    max_frames: int | None = option(
        None,
        "Atari: a game is cut after so many emulator frames (default: as trained)",
        low=1,
        high=10**9,
    )
    max_episode_steps: int | None = option(
        None,
        "a game is cut after so many agent steps, in any environment (default: as trained; "
        f"{STEP_LIMIT} where nothing else would ever cut one)",
        low=1,
        high=10**9,
    )
    sticky_actions: float | None = option(
        None,
        "Atari: probability that the emulator repeats the last action (default: as trained)",
        low=0.0,
        high=0.99,
    )
    seed: int = option(1, "seed of everything random", low=0, high=2**31 - 1)
    start_timeout_s: float = option(
        ResourceConfig.start_timeout_s,
        "the environment may take so long to be made, to be reset and to take its first step",
        unit="s",
        low=1.0,
    )
    num_envs: int | None = option(
        None,
        "environments that play at once (default: 16, or fewer for fewer games)",
        low=1,
        high=4096,
    )
    device: str = option("auto", "where the network computes: auto, cpu, cuda, or cuda:0, ...")
    json: bool = option(False, "print the result as JSON on standard output, not as a table")
    output: str = option(
        "", "new file for the JSON (default: RUN/eval-<checkpoint>-<learner>-<time>.json)"
    )
    quiet: bool = option(False, "show no progress")
