"""PPO as a plain PyTorch loop over a vector environment: Gymnasium's, or EnvPool's.

In the manner of CleanRL's `ppo_atari.py`, with its constants but a fixed step size: one process
steps the environments one after the other (`SyncVectorEnv`), acts and learns in turns, with as many
compute threads as torch chooses. Preprocessing as there: up to 30 no-ops, frame skip 4, 84 x 84
grey pixels from the emulator itself, a lost life ends the episode, FIRE at resets, clipped rewards,
4 stacked frames. A truncated episode counts as ended, as there.

With `--vector envpool` it is in the manner of CleanRL's `ppo_atari_envpool.py`, run by the Python
of its own environment: EnvPool steps the environments in threads of its own, in C++, with the same
preprocessing.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import gymnasium
import numpy as np
import torch
from ale_py.registration import rom_id_to_name
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torch import Tensor, nn
from torch.distributions import Categorical

FRAMES_PER_STEP, FRAMES_STACKED = 4, 4
ROW_EVERY_S = 0.5
NUM_STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
GAMMA, GAE_LAMBDA, CLIP = 0.99, 0.95, 0.1
ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.01, 0.5, 0.5
LEARNING_RATE, ADAM_EPS = 2.5e-4, 1e-5
NOOP, FIRE = 0, 1

Stepped = tuple[Any, float, bool, bool, dict[str, Any]]


class Lives(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An Atari game of which every life is an episode; rewards are clipped to their sign.

    A reset begins a new game only where the last one is over, and presses FIRE where there is such
    an action.
    """

    def __init__(self, game: gymnasium.Env[Any, Any]) -> None:
        super().__init__(game)
        inner: Any = game.unwrapped
        self._ale, self._over, self._left = inner.ale, True, 0
        self._fires = "FIRE" in inner.get_action_meanings()

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin the next life, of a new game if need be."""
        if self._over:
            seen, told = self.env.reset(**options)
        else:
            seen, told = self._press(NOOP, options)
        if self._fires:
            seen, told = self._press(FIRE, options)
        self._over, self._left = False, self._ale.lives()
        return seen, told

    def _press(self, action: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen, _, terminated, truncated, told = self.env.step(action)
        return self.env.reset(**options) if terminated or truncated else (seen, told)

    def step(self, action: Any) -> Stepped:
        """Act; a lost life terminates."""
        seen, reward, terminated, truncated, told = self.env.step(action)
        self._over = terminated or truncated
        before, self._left = self._left, self._ale.lives()
        sign = float(np.sign(float(reward)))
        return seen, sign, terminated or self._left < before, truncated, told


def make_game(rom: str) -> gymnasium.Env[Any, Any]:
    """Return one environment with observations uint8 [4, 84, 84]."""
    gymnasium.register_envs(ale_py)
    game = gymnasium.make(f"{rom_id_to_name(rom)}NoFrameskip-v4", obs_type="grayscale")
    seen = AtariPreprocessing(game, noop_max=30, frame_skip=FRAMES_PER_STEP)
    return FrameStackObservation(Lives(seen), FRAMES_STACKED)


def make_games(rom: str, num_envs: int, seed: int, vector: str) -> Any:
    """Return so many environments in one, with observations uint8 [num_envs, 4, 84, 84]."""
    if vector == "envpool":
        import envpool  # type: ignore[import-not-found]

        return envpool.make_gymnasium(
            f"{rom_id_to_name(rom)}-v5", num_envs=num_envs, seed=seed, episodic_life=True,
            reward_clip=True,
        )  # fmt: skip
    return SyncVectorEnv(
        [functools.partial(make_game, rom)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )


class Network(nn.Module):
    """The Nature network under a policy and a value head."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(FRAMES_STACKED, 32, 8, 4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU()),
        )
        self.policy, self.value = nn.Linear(512, num_actions), nn.Linear(512, 1)
        gains: dict[nn.Module, float] = {self.policy: 0.01, self.value: 1.0}
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, gains.get(layer, 2**0.5))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> tuple[Any, Tensor]:
        """Return the distribution of the actions and values [B] of uint8 images [B, 4, 84, 84]."""
        features = self.trunk(observations.float() / 255.0)
        policy: Any = Categorical(logits=self.policy(features))  # its methods have no types
        return policy, self.value(features).squeeze(-1)


class Batch(NamedTuple):
    """Transitions [N, ...] to learn from; log-probabilities and values are those of when acting."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def at(self, where: Tensor) -> Batch:
        """Return those with the indices `where`."""
        return Batch(*(each[where] for each in self))


def advantages_of(rewards: Tensor, ended: Tensor, values: Tensor, bootstrap: Tensor) -> Tensor:
    """Return the generalised advantages [T, B]; `ended` is 1.0 where a step ended its episode."""
    found = torch.zeros_like(rewards)
    ahead, following = torch.zeros_like(bootstrap), bootstrap
    for t in reversed(range(len(rewards))):
        continues = 1.0 - ended[t]
        delta = rewards[t] + GAMMA * continues * following - values[t]
        ahead = delta + GAMMA * GAE_LAMBDA * continues * ahead
        found[t], following = ahead, values[t]
    return found


def loss_of(log_probs: Tensor, values: Tensor, entropies: Tensor, batch: Batch) -> Tensor:
    """Return PPO's loss [] with clipped ratios and values, advantages normalised; all else [N]."""
    advantages = batch.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratios = (log_probs - batch.log_probs).exp()
    clipped = ratios.clamp(1 - CLIP, 1 + CLIP)
    policy_loss = -torch.min(advantages * ratios, advantages * clipped).mean()
    near = batch.values + (values - batch.values).clamp(-CLIP, CLIP)
    errors = torch.max((values - batch.returns).square(), (near - batch.returns).square())
    return policy_loss + VF_COEF * 0.5 * errors.mean() - ENT_COEF * entropies.mean()


class Loop:
    """The environments, the network and its optimiser."""

    def __init__(self, game: str, num_envs: int, seed: int, vector: str = "sync") -> None:
        torch.manual_seed(seed)
        self.num_envs = num_envs
        self.environment = make_games(game, num_envs, seed, vector)
        space: Any = getattr(self.environment, "single_action_space", self.environment.action_space)
        self.network = Network(int(space.n))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, eps=ADAM_EPS)
        # EnvPool has its seed from the start, and takes none here.
        told = {} if vector == "envpool" else {"seed": seed}
        observations, _ = self.environment.reset(**told)
        self.observations = torch.from_numpy(observations.copy())

    def rollout(self) -> Batch:
        """Play `NUM_STEPS` agent steps in each environment."""
        shape = (NUM_STEPS, self.num_envs)
        seen = torch.empty((*shape, *self.observations.shape[1:]), dtype=torch.uint8)
        actions = torch.empty(shape, dtype=torch.int64)
        log_probs, values, rewards, ended = torch.empty((4, *shape))
        with torch.no_grad():
            for t in range(NUM_STEPS):
                seen[t] = self.observations
                policy, values[t] = self.network(self.observations)
                actions[t] = policy.sample()
                log_probs[t] = policy.log_prob(actions[t])
                observations, reward, terminated, truncated, _ = self.environment.step(
                    actions[t].numpy()
                )
                rewards[t] = torch.from_numpy(reward)
                ended[t] = torch.from_numpy(terminated | truncated)
                self.observations = torch.from_numpy(observations.copy())
            _, bootstrap = self.network(self.observations)
        advantages = advantages_of(rewards, ended, values, bootstrap)
        parts = (seen, actions, log_probs, values, advantages, advantages + values)
        return Batch(*(part.flatten(0, 1) for part in parts))

    def update(self) -> float:
        """Play a rollout and learn from it; returns the last minibatch's loss."""
        batch, last = self.rollout(), 0.0
        for _ in range(EPOCHS):
            for where in torch.randperm(len(batch.actions)).chunk(MINIBATCHES):
                part = batch.at(where)
                policy, values = self.network(part.observations)
                loss = loss_of(policy.log_prob(part.actions), values, policy.entropy(), part)
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM)
                self.optimiser.step()
                last = loss.item()
        return last


def main() -> None:
    """Train until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--network", choices=["nature"], required=True)
    parser.add_argument("--vector", choices=["sync", "envpool"], default="sync")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()

    loop = Loop(options.game, options.num_envs, options.seed, options.vector)
    steps, last_s = 0, time.monotonic()
    with (options.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as rows:
        while True:
            loop.update()
            steps += NUM_STEPS * options.num_envs
            now_s = time.monotonic()
            if now_s - last_s >= ROW_EVERY_S:
                last_s = now_s
                frames = steps * FRAMES_PER_STEP
                row = {"global_step": steps, "emulator_frames": frames, "wall_s": now_s}
                rows.write(json.dumps(row) + "\n")
                rows.flush()


if __name__ == "__main__":
    main()
