"""Lock-step GALA in one process: X = P (X + U), written as plainly as can be.

And all-reduced A2C: everyone steps with the mean of all gradients.

It shares the environments and the algorithm with the engine, and none of its processes, shared
memory, slots, mailboxes or mixing.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from galamp.algorithms import make_algorithm
from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.forward import Place
from galamp.algorithms.networks import build_model
from galamp.core.config import GossipConfig, RunConfig
from galamp.core.seeding import seed_for
from galamp.environments import make_environment
from galamp.environments.base import Environment
from galamp.gossip.topologies.base import Topology

FIRST_START = 1


class ReferenceLearner:
    """One learner and its simulators."""

    def __init__(self, config: RunConfig, rank: int) -> None:
        envs = range(config.environment.num_envs)
        seeds = [seed_for(config.seed, rank, FIRST_START, 1 + env_index) for env_index in envs]
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
            scale=spec.observation_scale,
        )
        self.algorithm: Algorithm = make_algorithm(
            config.algorithm, model, device="cpu", seed=seed_for(config.seed, rank, FIRST_START)
        )
        self.algorithm.prepare(config.algorithm.num_steps, len(envs))
        self.observations = self.environment.reset()

    def collect(self) -> Rollout:
        """Collect one rollout."""
        observations, actions, steps = [self.observations], [], []
        for step in range(self.config.algorithm.num_steps):
            place = Place(step, slice(None))
            actions.append(self.algorithm.act(torch.from_numpy(observations[-1]), place))
            steps.append(self.environment.step(actions[-1].numpy()))
            observations.append(steps[-1].observations)
        self.observations = observations[-1]

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(step, name) for step in steps]))

        rewards = column("rewards").to(torch.float32)
        return Rollout(
            observations=torch.from_numpy(np.stack(observations)),
            actions=torch.stack(actions),
            rewards=rewards.clamp(-1, 1) if self.clip else rewards,
            terminated=column("terminated"),
            truncated=column("truncated"),
            valid=~column("reset"),
        )

    def gradient(self, rollout: Rollout) -> Tensor:
        """Return the gradient on `rollout`, not clipped; no step is taken."""

        def leave() -> bool:
            raise Leave

        with contextlib.suppress(Leave):
            self.algorithm.update(rollout, leave)
        return self.algorithm.parameters.grad.clone()

    def step(self, rollout: Rollout, gradient: Tensor) -> None:
        """Take one optimiser step with everyone's `gradient`."""

        def put() -> bool:
            self.algorithm.parameters.grad.copy_(gradient)
            return True

        self.algorithm.update(rollout, put)


class Leave(Exception):
    """Ends an update in the middle."""


def train_in_lock_step(config: RunConfig, graph: Topology, turns: int) -> list[ReferenceLearner]:
    """Run `turns` turns of all learners, each mixing by its row of the graph's matrix."""
    learners = [ReferenceLearner(config, rank) for rank in range(graph.size)]
    gossip, round_ = config.gossip, 0
    for turn in range(1, turns + 1):
        rollouts = [learner.collect() for learner in learners]
        if gossip.method == "allreduce":
            step_together(learners, rollouts)
            continue
        for learner, rollout in zip(learners, rollouts, strict=True):
            learner.algorithm.update(rollout)
        if gossips(gossip, config.seed, turn):
            names = ["parameters"] + ["square_average"] * gossip.gossip_optimizer
            mix(learners, graph, round_, names)
            round_ += 1
    return learners


def gossips(gossip: GossipConfig, seed: int, turn: int) -> bool:
    """Whether a round follows turn `turn`, counted from 1."""
    coin = np.random.default_rng((seed, 0, turn)).random()
    return turn % gossip.gossip_every == 0 and bool(coin < gossip.gossip_probability)


def step_together(learners: list[ReferenceLearner], rollouts: list[Rollout]) -> None:
    """Average the gradients of all, and let everyone take a step with the mean."""
    pairs = list(zip(learners, rollouts, strict=True))
    gradients = [learner.gradient(rollout) for learner, rollout in pairs]
    mean = weighted_sum([1 / len(learners)] * len(learners), gradients)
    for learner, rollout in pairs:
        learner.step(rollout, mean)


def mix(learners: list[ReferenceLearner], graph: Topology, round_: int, names: list[str]) -> None:
    """Let everyone average with its in-peers of round `round_`."""
    for name in names:
        vectors = [learner.algorithm.state()[name] for learner in learners]
        before = [vector.clone() for vector in vectors]
        for rank, vector in enumerate(vectors):
            weights = dict(
                zip((rank, *graph.in_peers(rank, round_)), graph.weights(rank, round_), strict=True)
            )
            ranks = sorted(weights)
            vector.copy_(weighted_sum([weights[r] for r in ranks], [before[r] for r in ranks]))


def weighted_sum(weights: list[float], vectors: list[Tensor]) -> Tensor:
    """Return the sum of `vectors`, added up in their order; the weights are made to sum to 1."""
    total = sum(weights)
    result = torch.mul(vectors[0], weights[0] / total)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        result.add_(vector, alpha=weight / total)
    return result
