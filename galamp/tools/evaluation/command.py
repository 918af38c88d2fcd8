"""`galamp eval`: play whole games with a trained agent, and say what they came to.

    words --> EvaluationConfig --evaluation.evaluate--> report --> table or JSON, and a file

Only light modules are imported at the top, for the command line imports this one before it knows
whether it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from galamp.core.arguments import add_flags, settings_from
from galamp.core.config import ResourceConfig
from galamp.core.errors import EXIT_OK, EXIT_SIGINT
from galamp.core.settings import option

EACH: Literal["each"] = "each"
"""The word for every learner, and the mean of all."""
STEP_LIMIT = 100_000
"""Agent steps after which a game is cut in environments that have no limit at all."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How to evaluate; what is None is as it was in training."""

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
    env_id: str = option(
        "",
        "package.module:factory or package:EnvId-v0 that the checkpoint names, given once more: a "
        "checkpoint alone does not decide what code is run",
    )
    noop_max: int | None = option(
        None,
        "Atari: a game begins with fewer no-op frames than this, how many is drawn (0: with none; "
        "default: as trained)",
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
        "simulators that play at once (default: 16, or fewer for fewer games)",
        low=1,
        high=4096,
    )
    device: str = option("auto", "where the network computes: auto, cpu, cuda, or cuda:0, ...")
    json: bool = option(False, "print the result as JSON on standard output, not as a table")
    output: str = option(
        "", "new file for the JSON (default: RUN/eval-<checkpoint>-<learner>-<time>.json)"
    )
    quiet: bool = option(False, "show no progress")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp eval`, and the command."""
    parser.set_defaults(command=eval_command)
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", type=Path, help="run folder, or one of its checkpoints"
    )
    add_flags(parser, EvaluationConfig)


def eval_command(options: argparse.Namespace) -> int:
    """`galamp eval`."""
    config = settings_from(options, EvaluationConfig)
    # Read when torch loads: its waiting threads would spin on the cores that the emulator needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    done = [0]
    try:
        return _evaluate(options.path, config, done)
    except KeyboardInterrupt:
        sys.stderr.write(f"galamp: interrupted after {done[0]} games; nothing written\n")
        return EXIT_SIGINT


def _evaluate(path: Path, config: EvaluationConfig, done: list[int]) -> int:
    """Evaluate, write, show; `done[0]` counts the games on the way."""
    from galamp.tools.evaluation.report import evaluate, write
    from galamp.tools.evaluation.table import Progress, show

    report, target = evaluate(path, config, Progress(config.quiet, done))
    try:
        written = write(target, report)
    finally:
        # What took minutes to find out is shown even if the disk refuses it.
        if config.json:
            print(json.dumps(report))
        else:
            show(report, sys.stdout)
    if not config.quiet:
        sys.stderr.write(f"written: {written}\n")
    return EXIT_OK
