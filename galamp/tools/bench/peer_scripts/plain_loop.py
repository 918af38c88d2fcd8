"""A2C as a plain PyTorch loop in one process; run by galamp's Python.

Same game, network and constants as galamp, nothing of its engine: the emulator and torch each get
as many threads as there are cores, and take turns. The acting passes keep their graph, so that the
update needs no second forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

FRAMES_PER_STEP = 4
ROW_EVERY_S = 0.5
NUM_STEPS, GAMMA, ENT_COEF, VF_COEF = 5, 0.99, 0.01, 0.5
LEARNING_RATE, ALPHA, EPS, MAX_GRAD_NORM = 7e-4, 0.99, 1e-5, 0.5
THIRD_LAYER_FILTERS = {"gala": 32, "nature": 64}
GAINS = {"policy": 0.01, "value": 1.0}
HIDDEN_GAIN = 2**0.5


class Network(nn.Module):
    """Three convolutions and a linear layer under a policy and a value head."""

    def __init__(self, num_actions: int, third_filters: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, third_filters, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(third_filters * 7 * 7, 512), nn.ReLU()),
        )
        self.policy = nn.Linear(512, num_actions)
        self.value = nn.Linear(512, 1)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, GAINS.get(name, HIDDEN_GAIN))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of uint8 images [B, 4, 84, 84]."""
        x = self.trunk(observations.float() / 255.0)
        return self.policy(x), self.value(x).squeeze(-1)


def returns_of(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, values: Tensor, bootstrap: Tensor
) -> Tensor:
    """Return the n-step returns [T, B]; a truncated step continues with its observation's value."""
    following = torch.cat((values[1:], bootstrap.unsqueeze(0)))
    returns = torch.empty_like(rewards)
    ahead = bootstrap
    for t in reversed(range(len(rewards))):
        ahead = torch.where(truncated[t], following[t], ahead)
        ahead = rewards[t] + GAMMA * torch.where(terminated[t], 0.0, ahead)
        returns[t] = ahead
    return returns


def loss_of(
    log_probs: Tensor, values: Tensor, entropies: Tensor, returns: Tensor, valid: Tensor
) -> Tensor:
    """Return A2C's loss [], the mean over the valid ones of all [T, B] transitions."""
    advantages = returns - values
    each = -log_probs * advantages.detach() + VF_COEF * advantages.square() - ENT_COEF * entropies
    return (each * valid).sum() / valid.sum().clamp(min=1)


class Loop:
    """The environments, the network and its optimiser."""

    def __init__(
        self, game: str, num_envs: int, network: str, seed: int, threads: int, bf16: bool = False
    ) -> None:
        self.bf16 = bf16
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        # A lost life ends the return but not the game; scores are clipped below.
        self.environment = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads,
            frameskip=FRAMES_PER_STEP,
            reward_clipping=False,
            life_loss_info=True,
            autoreset_mode="NextStep",
        )
        num_actions = len(self.environment.ale.get_action_set())
        self.network = Network(num_actions, THIRD_LAYER_FILTERS[network])
        self.optimiser = torch.optim.RMSprop(
            self.network.parameters(), lr=LEARNING_RATE, alpha=ALPHA, eps=EPS
        )
        observations, info = self.environment.reset(seed=seed)
        self.observations = torch.from_numpy(observations)
        self.episode_start = info["frame_number"] - info["episode_frame_number"]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Act; return rewards, terminated, truncated and valid, each [B].

        The step after the end of a game ignores its action and only begins the next game: it is
        not valid, and known by the frame at which the emulator's present game began.
        """
        observations, rewards, terminated, truncated, info = self.environment.step(actions.numpy())
        self.observations = torch.from_numpy(observations)
        start = info["frame_number"] - info["episode_frame_number"]
        valid = start == self.episode_start
        self.episode_start = start
        clipped = np.clip(rewards, -1.0, 1.0).astype(np.float32)
        rewards_, terminated_, truncated_, valid_ = map(
            torch.from_numpy, (clipped, terminated, truncated, valid)
        )
        return rewards_, terminated_, truncated_, valid_

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return logits [B, A] and values [B] of the present observations, in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits, values = self.network(self.observations)
        return logits.float(), values.float()

    def update(self) -> float:
        """Play `NUM_STEPS` agent steps and learn from them; returns the loss."""
        acted, told = [], []
        for _ in range(NUM_STEPS):
            logits, values = self.outputs()
            policy: Any = Categorical(logits=logits)  # its methods have no types
            actions = policy.sample()
            acted.append((policy.log_prob(actions), values, policy.entropy()))
            told.append(self.step(actions))
        log_probs, values, entropies = (torch.stack(each) for each in zip(*acted, strict=True))
        rewards, terminated, truncated, valid = (
            torch.stack(each) for each in zip(*told, strict=True)
        )
        with torch.no_grad():
            _, bootstrap = self.outputs()
        returns = returns_of(rewards, terminated, truncated, values.detach(), bootstrap)
        loss = loss_of(log_probs, values, entropies, returns, valid)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM)
        self.optimiser.step()
        return loss.item()


def main() -> None:
    """Train until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--network", choices=list(THIRD_LAYER_FILTERS), required=True)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()

    threads = len(os.sched_getaffinity(0))
    bf16 = args.precision == "bf16"
    loop = Loop(args.game, args.num_envs, args.network, args.seed, threads, bf16)
    steps, last_s = 0, time.monotonic()
    with (args.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as rows:
        while True:
            loop.update()
            steps += NUM_STEPS * args.num_envs
            now_s = time.monotonic()
            if now_s - last_s >= ROW_EVERY_S:
                last_s = now_s
                frames = steps * FRAMES_PER_STEP
                row = {"global_step": steps, "emulator_frames": frames, "wall_s": now_s}
                rows.write(json.dumps(row) + "\n")
                rows.flush()


if __name__ == "__main__":
    main()
