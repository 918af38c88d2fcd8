"""Stable-Baselines3's A2C or PPO, run by the Python of its own environment until it is ended.

The preprocessing of `AtariWrapper` (up to 30 no-ops, frame skip 4, 84 x 84 pixels, a lost life ends
the episode, clipped rewards), 4 stacked frames, the Nature network, as many compute threads as
torch chooses. A2C has its defaults: rollouts of 5 agent steps, RMSprop in TensorFlow's form. PPO
has the settings of CleanRL's `ppo_atari.py`: rollouts of 128 agent steps, 4 epochs of 4
minibatches.

Counted are the agent steps of rollouts that it has learned from.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
from ale_py.registration import rom_id_to_name
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
)

FRAMES_PER_STEP = 4
ROW_EVERY_S = 0.5
ENDLESS = 10**12


NUM_STEPS, MINIBATCHES = 128, 4
"""Of PPO: rollout length, and minibatches per epoch."""


class RowWriter(BaseCallback):
    """Called before every rollout, and so after all learning; writes a row now and then."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", encoding="utf-8")
        self._last_s = time.monotonic()

    def _on_rollout_start(self) -> None:
        """Write down how far it has come."""
        now_s = time.monotonic()
        if now_s - self._last_s >= ROW_EVERY_S:
            self._last_s = now_s
            row = {
                "global_step": self.num_timesteps,
                "emulator_frames": self.num_timesteps * FRAMES_PER_STEP,
                "wall_s": now_s,
            }
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def _on_step(self) -> bool:
        """Let it go on."""
        return True


def settings_of(algorithm: str, num_envs: int) -> dict[str, Any]:
    """Return what differs from Stable-Baselines3's own settings."""
    if algorithm == "a2c":
        return {}
    return {
        "n_steps": NUM_STEPS,
        "batch_size": num_envs * NUM_STEPS // MINIBATCHES,
        "n_epochs": 4,
        "learning_rate": 2.5e-4,
        "clip_range": 0.1,
        "clip_range_vf": 0.1,
        "ent_coef": 0.01,
    }


def main() -> None:
    """Train until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--network", choices=["nature"], required=True)
    parser.add_argument("--algorithm", choices=["a2c", "ppo"], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()

    gymnasium.register_envs(ale_py)
    env_id = f"{rom_id_to_name(args.game)}NoFrameskip-v4"
    # One process steps all environments: with processes of their own it is slower on few cores.
    environment = make_atari_env(
        env_id, n_envs=args.num_envs, seed=args.seed, vec_env_cls=DummyVecEnv
    )
    stacked = VecFrameStack(environment, n_stack=4)
    kind = {"a2c": A2C, "ppo": PPO}[args.algorithm]
    settings = settings_of(args.algorithm, args.num_envs)
    model = kind("CnnPolicy", stacked, seed=args.seed, device="cpu", verbose=0, **settings)
    model.set_logger(Logger(folder=None, output_formats=[]))  # its own leaves a folder in /tmp
    model.learn(ENDLESS, callback=RowWriter(args.run_dir / "metrics.jsonl"))


if __name__ == "__main__":
    main()
