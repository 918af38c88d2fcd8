"""Lock-step GALA in one process: X = P (X + U), written as plainly as can be.

It shares the environments and the algorithm with the engine, and none of its processes, shared
memory, slots, mailboxes or mixing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.config import RunConfig
from galamp.environments import make_environment
from galamp.environments.base import Environment
from galamp.models import build_model
from galamp.plan import seed_for

FIRST_START = 1


class ReferenceLearner:
    """One learner and its simulators."""

    def __init__(self, config: RunConfig, rank: int) -> None:
        lanes = range(config.environment.num_envs)
        seeds = [seed_for(config.seed, rank, FIRST_START, 1 + lane) for lane in lanes]
        self.config = config
        self.environment: Environment = make_environment(config.environment, seeds)
        spec = self.environment.spec
        self.clip = spec.clip_rewards
        model = build_model(
            config.model.network,
            spec.observation_shape,
            spec.observation_dtype,
            spec.num_actions,
            seed=config.seed,
        )
        self.algorithm: Algorithm = make_algorithm(
            config.algorithm, model, device="cpu", seed=seed_for(config.seed, rank, FIRST_START)
        )
        self.observations = self.environment.reset()

    def round(self) -> None:
        """Collect one rollout and take one optimiser step."""
        observations, actions, steps = [self.observations], [], []
        for _ in range(self.config.algorithm.num_steps):
            actions.append(self.algorithm.act(torch.from_numpy(observations[-1])))
            steps.append(self.environment.step(actions[-1].numpy()))
            observations.append(steps[-1].observations)
        self.observations = observations[-1]

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(step, name) for step in steps]))

        rewards = column("rewards")
        rollout = Rollout(
            observations=torch.from_numpy(np.stack(observations)),
            actions=torch.stack(actions),
            rewards=rewards.clamp(-1, 1) if self.clip else rewards,
            terminated=column("terminated"),
            truncated=column("truncated"),
            valid=~column("reset"),
        )
        self.algorithm.update(rollout)


def train_in_lock_step(config: RunConfig, weights: Tensor, rounds: int) -> list[ReferenceLearner]:
    """Run `rounds` rounds with the mixing matrix `weights` `[n, n]`, row i mixing for learner i."""
    learners = [ReferenceLearner(config, rank) for rank in range(len(weights))]
    for _ in range(rounds):
        for learner in learners:
            learner.round()
        after = [learner.algorithm.parameters.data.clone() for learner in learners]
        for learner, row in zip(learners, weights, strict=True):
            mixed = torch.zeros_like(after[0])
            for weight, vector in zip(row, after, strict=True):
                mixed += weight * vector
            learner.algorithm.parameters.data.copy_(mixed)
    return learners


def ring_weights(size: int) -> Tensor:
    """Return the directed ring's matrix: half of oneself, half of the one before."""
    weights = torch.zeros(size, size)
    for rank in range(size):
        weights[rank, rank] = weights[rank, rank - 1] = 0.5
    return weights
