"""Stable-Baselines3's A2C, run by the Python of its own environment until it is ended.

Its defaults throughout: the preprocessing of `AtariWrapper` (up to 30 no-ops, frame skip 4, 84 x 84
pixels, a lost life ends the episode, clipped rewards), 4 stacked frames, the Nature network,
rollouts of 5 agent steps, RMSprop in TensorFlow's form, as many compute threads as torch chooses.
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
from stable_baselines3 import A2C  # type: ignore[import-not-found]
from stable_baselines3.common.env_util import make_atari_env  # type: ignore[import-not-found]
from stable_baselines3.common.vec_env import (  # type: ignore[import-not-found]
    DummyVecEnv,
    VecFrameStack,
)

FRAMES_PER_STEP = 4
ROW_EVERY_S = 0.5
ENDLESS = 10**12


class RowWriter:
    """Called by A2C after every agent step of all environments; writes a row now and then."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._last_s = time.monotonic()

    def __call__(self, local: dict[str, Any], _: dict[str, Any]) -> bool:
        """Write down how far A2C has come; True lets it go on."""
        now_s = time.monotonic()
        if now_s - self._last_s >= ROW_EVERY_S:
            self._last_s = now_s
            steps = local["self"].num_timesteps
            row = {
                "global_step": steps,
                "emulator_frames": steps * FRAMES_PER_STEP,
                "wall_s": now_s,
            }
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        return True


def main() -> None:
    """Train until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--network", choices=["nature"], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()

    gymnasium.register_envs(ale_py)
    env_id = f"{rom_id_to_name(options.game)}NoFrameskip-v4"
    # One process steps all environments: with processes of their own A2C is slower on few cores.
    environment = make_atari_env(
        env_id, n_envs=options.num_envs, seed=options.seed, vec_env_cls=DummyVecEnv
    )
    stacked = VecFrameStack(environment, n_stack=4)
    model = A2C("CnnPolicy", stacked, seed=options.seed, device="cpu", verbose=0)
    model.learn(ENDLESS, callback=RowWriter(options.run_dir / "metrics.jsonl"))


if __name__ == "__main__":
    main()
