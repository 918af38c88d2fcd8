"""Stable-Baselines3's A2C in Pong with its published settings: what the study's runs stand beside.

    train --PeerRun--> results/stable-baselines3.jsonl, a line for each run

The settings are those of RL Baselines3 Zoo for Atari (`hyperparams/a2c.yml`): 16 environments,
rollouts of 5 agent steps, RMSprop in TensorFlow's form. It has `CORES` cores, as galamp's runs in
Pong do, and torch a thread for each. A run ends when the mean return of the last 100 episodes is
the study's score of Pong.
Stable-Baselines3 is no dependency of galamp's: `pip install -e .[dev]` brings it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from galamp.core.decode import decode
from galamp.core.disk import read_limited
from galamp.core.errors import UserError
from galamp.core.json_values import DecodeError, json_object
from galamp.core.pip_commands import pip_install
from galamp.tools.study import plan
from galamp.tools.study.rows import LIMITS, MAX_BYTES

FILE = plan.RESULTS / "stable-baselines3.jsonl"
ARM = "stable-baselines3"
GAME = "PongNoFrameskip-v4"
ENVIRONMENTS, STACKED = 16, 4
SETTINGS: dict[str, Any] = {"ent_coef": 0.01, "vf_coef": 0.25}
RMSPROP_EPS = 1e-5
CORES = 2
"""Cores that it may use: those that the file of block pong gives each run."""
PROGRESS_S = 60.0
EPISODES = 100
"""Episodes whose mean return counts, as in Stable-Baselines3's own log."""


@dataclass(frozen=True)
class PeerRun:
    """One run of Stable-Baselines3.

    Attributes:
        arm: its name in tables.
        version: of Stable-Baselines3.
        seed: its seed.
        agent_steps: made when it ended.
        wall_s: training time in seconds, without start-up.
        reached_steps: agent steps at the score, or None.
        reached_s: training time there.
        score: mean return of the last 100 episodes at the end; None before the first.
        machine: processor, cores, versions; empty in older rows, and before it is kept.
    """

    arm: str
    version: str
    seed: int
    agent_steps: int
    wall_s: float
    reached_steps: int | None
    reached_s: float | None
    score: float | None
    machine: str = ""


def train(seed: int, steps: int, target: float = plan.SCORE_OF_PONG) -> PeerRun:
    """Train until the score, or for so many agent steps, on the first `CORES` of this process.

    Raises:
        UserError: Stable-Baselines3 is not installed.
    """
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:CORES])
    try:
        return _train(seed, steps, target)
    finally:
        os.sched_setaffinity(0, every)


def _train(seed: int, steps: int, target: float) -> PeerRun:
    try:
        import ale_py
        import gymnasium
        import stable_baselines3
        import torch
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.logger import Logger
        from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
        from stable_baselines3.common.vec_env import VecFrameStack
    except ImportError as error:
        raise UserError(
            f"Stable-Baselines3 is missing ({error}): {pip_install('stable-baselines3')}"
        ) from None

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gymnasium.register_envs(ale_py)
    environment = VecFrameStack(make_atari_env(GAME, ENVIRONMENTS, seed), STACKED)
    policy = {
        "optimizer_class": RMSpropTFLike,
        "optimizer_kwargs": {"eps": RMSPROP_EPS},
    }
    model = stable_baselines3.A2C(
        "CnnPolicy", environment, seed=seed, device="cpu", policy_kwargs=policy, **SETTINGS
    )
    model.set_logger(Logger(folder=None, output_formats=[]))  # its own leaves a folder in /tmp
    reached = Reached(target)
    began_s = time.monotonic()
    try:
        model.learn(steps, callback=reached)
    finally:
        environment.close()
    made, wall_s = model.num_timesteps, time.monotonic() - began_s
    return PeerRun(
        arm=ARM, version=stable_baselines3.__version__, seed=seed,
        agent_steps=made, wall_s=wall_s, score=reached.score,
        reached_steps=made if reached.done else None, reached_s=wall_s if reached.done else None,
    )  # fmt: skip


class Reached:
    """Ends the training once the mean return of the last episodes is the score."""

    def __init__(self, target: float) -> None:
        self._target = target
        self.score: float | None = None
        self.done = False
        self._told_s = time.monotonic()

    def __call__(self, variables: dict[str, Any], _: dict[str, Any]) -> bool:
        """Look at the episodes of a step, tell of it now and then; returns whether to go on."""
        returns = [episode["r"] for episode in variables["self"].ep_info_buffer]
        self.score = sum(returns) / len(returns) if returns else None
        self.done = len(returns) >= EPISODES and (self.score or 0.0) >= self._target
        if (now_s := time.monotonic()) - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            made = variables["self"].num_timesteps
            sys.stderr.write(f"galamp: study: {made:,} agent steps, score {self.score}\n")
        return not self.done


def is_whole(run: PeerRun) -> bool:
    """Return whether a run came to its score, or had all agent steps that it may need for it."""
    return run.reached_steps is not None or run.agent_steps >= plan.PEER_STEPS


def add(run: PeerRun, path: Path | None = None) -> bool:
    """Add a run to the file, unless the file has a whole one of its seed.

    Returns:
        whether it was added.

    Raises:
        UserError: the file is damaged.
        OSError: the disk refuses it.
    """
    path = path or FILE
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        if any(
            (each.arm, each.seed) == (run.arm, run.seed) and is_whole(each) for each in read(path)
        ):
            return False
        file.write(json.dumps(asdict(run)) + "\n")
    return True


def read(path: Path | None = None) -> list[PeerRun]:
    """Return the stored runs, none if there is no file.

    Raises:
        UserError: it cannot be read, or a line is damaged.
    """
    path = path or FILE
    try:
        lines = read_limited(path, MAX_BYTES).decode().splitlines()
        return [decode(PeerRun, json_object(line), LIMITS) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, DecodeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
