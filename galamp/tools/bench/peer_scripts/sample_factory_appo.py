"""Sample Factory's APPO, run by the Python of its own environment until it is ended.

Its own processes throughout: workers that simulate, one that acts, one that learns. The constants
are its Atari example's, or with `--algorithm ppo` those of CleanRL's `ppo_atari.py`: rollouts of
128 agent steps, 4 epochs of 4 minibatches. The preprocessing is its Atari example's (up to 30
no-ops, frame skip 4, 84 x 84 pixels, a lost life ends the episode, clipped rewards, 4 stacked
frames), in gymnasium's faster form of it: the emulator itself gives grey images, and only of the
frames that are looked at. Its encoder `convnet_atari` with ReLU and a layer of 512 units is the
Nature network.

The learner's own count is reported: the agent steps in all batches that it has learned from, told
after each. Whatever is simulated gets there, so this is the speed of training, as with the others;
the count of the acting process would run ahead by what waits in buffers, and comes every 3 s only.
Frames are 4 per agent step; no-ops and what else a reset plays are not counted, as with the others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import ale_py
import gymnasium
from ale_py.registration import rom_id_to_name
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from sample_factory.algo.utils.misc import (  # type: ignore[import-not-found]
    LEARNER_ENV_STEPS,
    ExperimentStatus,
)
from sample_factory.cfg.arguments import (  # type: ignore[import-not-found]
    parse_full_cfg,
    parse_sf_args,
)
from sample_factory.envs.env_utils import register_env  # type: ignore[import-not-found]
from sample_factory.envs.env_wrappers import (  # type: ignore[import-not-found]
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
)
from sample_factory.train import make_runner  # type: ignore[import-not-found]

FRAMES_PER_STEP = 4
ROW_EVERY_S = 0.5
ENDLESS = 10**12
NEVER_S = 10**9

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "serial_mode": False,
    "async_rl": True,
    "rollout": 32,
    "batch_size": 512,
    "num_batches_per_epoch": 1,
    "num_epochs": 1,
    # The network and its input.
    "encoder_conv_architecture": "convnet_atari",
    "encoder_conv_mlp_layers": [512],
    "nonlinearity": "relu",
    "use_rnn": False,
    "normalize_input": False,
    "obs_scale": 255.0,
    # As in its Atari example.
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "ppo_clip_ratio": 0.1,
    "value_loss_coeff": 0.5,
    "exploration_loss_coeff": 0.01,
    "max_grad_norm": 0.5,
    "learning_rate": 0.00025,
    "adam_eps": 1e-5,
    "normalize_returns": False,
    # It is ended from outside, and nobody wants its files.
    "train_for_env_steps": ENDLESS,
    "save_every_sec": NEVER_S,
    "save_best_every_sec": NEVER_S,
    "experiment_summaries_interval": NEVER_S,
    "log_to_file": False,
    # Steps are counted as the agent sees them.
    "summaries_use_frameskip": False,
}

NUM_STEPS, MINIBATCHES = 128, 4


def settings_of(algorithm: str, num_envs: int) -> dict[str, Any]:
    """Return the settings of its Atari example (a2c), or those of PPO for so many environments."""
    if algorithm == "a2c":
        return SETTINGS
    return SETTINGS | {
        "rollout": NUM_STEPS,
        "batch_size": num_envs * NUM_STEPS // MINIBATCHES,
        "num_batches_per_epoch": MINIBATCHES,
        "num_epochs": 4,
        "ppo_clip_value": 0.1,
    }


class RowWriter:
    """Called by the runner with every count of the learner; writes a row now and then."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._last_s = time.monotonic()

    def __call__(self, runner: object, message: dict[str, Any], policy: int) -> None:
        """Write down how far the learner has come."""
        now_s = time.monotonic()
        if now_s - self._last_s >= ROW_EVERY_S:
            self._last_s = now_s
            steps = message[LEARNER_ENV_STEPS]
            row = {
                "global_step": steps,
                "emulator_frames": steps * FRAMES_PER_STEP,
                "wall_s": now_s,
            }
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()


def make_game(env_id: str, *_: object) -> gymnasium.Env[Any, Any]:
    """Return one environment; called in the workers' processes."""
    gymnasium.register_envs(ale_py)
    game = gymnasium.make(env_id, obs_type="grayscale")
    game = EpisodicLifeEnv(AtariPreprocessing(game, noop_max=30, frame_skip=FRAMES_PER_STEP))
    if "FIRE" in game.unwrapped.get_action_meanings():
        game = FireResetEnv(game)
    return FrameStackObservation(ClipRewardEnv(game), 4)


def layout(num_envs: int, cores: int) -> dict[str, int]:
    """Share exactly `num_envs` environments out: to as many equal workers as the cores allow.

    A worker steps all of its own at once: with two halves that take turns (Sample Factory's
    default) each pass of the network has half the images. That was slower with 32 environments on 2
    cores, in turns: 427, 540, 494 agent steps/s against 483, 633, 544. To repeat it, change the
    last number below and run `bin/bench peers --peer sample-factory --seconds 18`.
    """
    workers = max(n for n in range(1, cores + 1) if num_envs % n == 0)
    each = num_envs // workers
    return {"num_workers": workers, "num_envs_per_worker": each, "worker_num_splits": 1}


def configuration(
    env_id: str, num_envs: int, algorithm: str, seed: int, folder: Path
) -> argparse.Namespace:
    """Return Sample Factory's settings; its files go to `folder`."""
    words = [f"--env={env_id}", f"--train_dir={folder}", "--experiment=appo", f"--seed={seed}"]
    parser, _ = parse_sf_args(words)
    cores = len(os.sched_getaffinity(0))
    parser.set_defaults(**settings_of(algorithm, num_envs), **layout(num_envs, cores))
    settings: argparse.Namespace = parse_full_cfg(parser, words)
    return settings


def leave(code: int) -> NoReturn:
    """End with all processes: left to themselves, they would outlive this one."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


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

    signal.signal(signal.SIGTERM, lambda number, frame: leave(128 + number))
    folder = args.run_dir.resolve()
    # Its temporary files too, and out of the checkout, whose state it would write down.
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.chdir(folder)
    env_id = f"{rom_id_to_name(args.game)}NoFrameskip-v4"
    register_env(env_id, make_game)
    what = (env_id, args.num_envs, args.algorithm, args.seed, folder)
    _, runner = make_runner(configuration(*what))
    # Its own method for this loses the handlers that a message has already.
    runner.policy_msg_handlers[LEARNER_ENV_STEPS].append(RowWriter(folder / "metrics.jsonl"))
    if runner.init() == ExperimentStatus.SUCCESS:
        runner.run()
    leave(1)  # by itself: an error, which it has told


if __name__ == "__main__":
    main()
