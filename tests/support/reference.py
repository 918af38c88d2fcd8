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

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.forward import Place
from galamp.core.config import GossipConfig, RunConfig
from galamp.core.seeding import seed_for
from galamp.environments import make_environment
from galamp.environments.base import Environment
from galamp.gossip.topologies.base import Topology
from galamp.workers.building import build_algorithm

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
        self.algorithm: Algorithm = build_algorithm(
            config.algorithm,
            config.model.network,
            spec,
            device="cpu",
            model_seed=config.seed,
            sampling_seed=seed_for(config.seed, rank, FIRST_START),
        )
        self.algorithm.prepare(config.algorithm.num_steps, len(envs))
        self.observations = self.environment.reset()
        self.first = np.ones(len(envs), np.bool_)

    def collect(self) -> Rollout:
        """Collect one rollout."""
        observations, first, actions, steps = [self.observations], [self.first], [], []
        for step in range(self.config.algorithm.num_steps):
            place = Place(step, slice(None))
            seen = torch.from_numpy(observations[-1]), torch.from_numpy(first[-1])
            actions.append(self.algorithm.act(*seen, place).actions)
            steps.append(self.environment.step(actions[-1].numpy()))
            first.append(steps[-1].reset)
            observations.append(steps[-1].observations)
        self.observations, self.first = observations[-1], first[-1]

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
            first=torch.from_numpy(np.stack(first)),
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
    before = [learner.algorithm.state()["parameters"].clone() for learner in learners]
    velocities = [torch.zeros_like(vector) for vector in before]
    for turn in range(1, turns + 1):
        rollouts = [learner.collect() for learner in learners]
        if gossip.method == "allreduce":
            step_together(learners, rollouts)
            continue
        for learner, rollout in zip(learners, rollouts, strict=True):
            learner.algorithm.update(rollout)
        if gossips(gossip, config.seed, turn):
            names = ["parameters"] + ["square_average"] * gossip.gossip_optimizer
            mix(learners, graph, round_, names, gossip.ball_floor)
            round_ += 1
            if gossip.outer_steps:
                for learner, *state in zip(learners, before, velocities, strict=True):
                    step_outside(learner.algorithm.state()["parameters"], *state, gossip)
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


def step_outside(vector: Tensor, before: Tensor, velocity: Tensor, gossip: GossipConfig) -> None:
    """Take a step of SGD with Nesterov momentum on the difference since the last one."""
    gradient = before - vector
    velocity.copy_(gossip.outer_momentum * velocity + gradient)
    ahead = torch.add(gradient, velocity, alpha=gossip.outer_momentum)
    before.copy_(torch.add(before, ahead, alpha=-gossip.outer_lr))
    vector.copy_(before)


def mix(
    learners: list[ReferenceLearner],
    graph: Topology,
    round_: int,
    names: list[str],
    floor: float | None = None,
) -> None:
    """Let everyone average with its in-peers of round `round_`, if it moves far enough."""
    for name in names:
        vectors = [learner.algorithm.state()[name] for learner in learners]
        before = [vector.clone() for vector in vectors]
        for rank, vector in enumerate(vectors):
            weights = dict(
                zip((rank, *graph.in_peers(rank, round_)), graph.weights(rank, round_), strict=True)
            )
            ranks = sorted(weights)
            mean = weighted_sum([weights[r] for r in ranks], [before[r] for r in ranks])
            if floor is None or float((mean - vector).double().norm()) >= floor:
                vector.copy_(mean)


def weighted_sum(weights: list[float], vectors: list[Tensor]) -> Tensor:
    """Return the sum of `vectors`, added up in their order; the weights are made to sum to 1."""
    total = sum(weights)
    result = torch.mul(vectors[0], weights[0] / total)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        result.add_(vector, alpha=weight / total)
    return result
