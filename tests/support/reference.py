"""Lock-step GALA in one process: X = P (X + U), written as plainly as can be.

And all-reduced: everyone takes every step with the mean of all gradients.

It shares the environments and the algorithm with the engine, and none of its processes, shared
memory, slots, mailboxes or mixing. What is normalised is so by statistics of a list of all data.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from galamp.algorithms.base import Algorithm, Rollout
from galamp.algorithms.forward import Place
from galamp.core.config import GossipConfig, RunConfig
from galamp.core.seeding import seed_for
from galamp.environments import make_environment
from galamp.environments.base import Environment
from galamp.gossip.topologies.base import Topology
from galamp.workers.building import build_algorithm

FIRST_START = 1
DEADLINE_S = 60.0


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
        self.normaliser = PlainNormaliser(self, len(envs))

    def collect(self) -> Rollout:
        """Collect one rollout."""
        observations, first, acted, steps = [self.observations], [self.first], [], []
        for step in range(self.config.algorithm.num_steps):
            place = Place(step, slice(None))
            shown = self.normaliser.seen(torch.from_numpy(observations[-1]))
            seen = shown, torch.from_numpy(first[-1])
            acted.append(self.algorithm.act(*seen, place))
            steps.append(self.environment.step(acted[-1].actions.numpy()))
            first.append(steps[-1].reset)
            observations.append(steps[-1].observations)
        self.observations, self.first = observations[-1], first[-1]

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(step, name) for step in steps]))

        rewards = column("rewards").to(torch.float32)
        rewards = rewards.clamp(-1, 1) if self.clip else rewards
        kept = [each.log_probs for each in acted if each.log_probs is not None]
        raw = np.stack(observations)
        ended = column("terminated") | column("truncated")
        self.normaliser.count(raw, rewards.numpy(), ended.numpy(), ~column("reset").numpy())
        return Rollout(
            observations=self.normaliser.seen(torch.from_numpy(raw)),
            actions=torch.stack([each.actions for each in acted]),
            rewards=self.normaliser.scaled(rewards),
            terminated=column("terminated"),
            truncated=column("truncated"),
            valid=~column("reset"),
            first=torch.from_numpy(np.stack(first)),
            log_probs=torch.stack(kept) if len(kept) == len(acted) else None,
        )


class Scales(NamedTuple):
    """What observations and rewards are brought to mean 0 and deviation 1 by."""

    mean: Tensor
    std: Tensor
    return_std: float


class PlainNormaliser:
    """A learner's own data, one by one, and its perceptron in the scales of everyone's."""

    def __init__(self, learner: ReferenceLearner, envs: int) -> None:
        self._learner, self._running = learner, np.zeros(envs)
        self.observations: list[np.ndarray] = []
        self.returns: list[float] = []
        self.scales: Scales | None = None

    def count(
        self, raw: np.ndarray, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray
    ) -> None:
        for step, env in np.ndindex(valid.shape):
            if valid[step, env]:
                self.observations.append(raw[step, env].astype(np.float64))
                self._running[env] *= self._learner.config.algorithm.gamma
                self._running[env] += float(rewards[step, env])
                self.returns.append(float(self._running[env]))
            if ended[step, env] or not valid[step, env]:
                self._running[env] = 0.0

    def seen(self, raw: Tensor) -> Tensor:
        if self.scales is None or not self._learner.config.environment.norm_obs:
            return raw
        return ((raw - self.scales.mean) / self.scales.std).clamp(-10, 10)

    def scaled(self, rewards: Tensor) -> Tensor:
        if self.scales is None or not self._learner.config.environment.norm_reward:
            return rewards
        return (rewards / self.scales.return_std).clamp(-10, 10)

    def enter(self, scales: Scales) -> None:
        """Change raw parameters to `scales`; the first weights of all are for the first scales."""
        if self.scales is not None:
            for layer, values in self._first_and_last():
                layer.bias += layer.weight @ scales.mean
                layer.weight *= scales.std
                values.mul_(1 / scales.return_std)
        self.scales = scales

    def leave(self) -> None:
        """Change parameters to raw ones."""
        assert self.scales is not None
        for layer, values in self._first_and_last():
            layer.weight /= self.scales.std
            layer.bias -= layer.weight @ self.scales.mean
            values.mul_(self.scales.return_std)

    def _first_and_last(self) -> Iterator[tuple[Any, Tensor]]:
        """Yield the first layers, and what gives the values."""
        model = self._learner.algorithm._model
        with torch.no_grad():
            yield model.policy[0], torch.empty(0)
            yield model.value[0], model.value[-1].weight
            yield nn.Linear(4, 1), model.value[-1].bias


def scales_of(learners: list[ReferenceLearner]) -> Scales | None:
    """Return the scales of everyone's data; None before there are a thousand."""
    data = np.array([x for learner in learners for x in learner.normaliser.observations])
    returns = [x for learner in learners for x in learner.normaliser.returns]
    if len(data) < 1000:
        return None
    mean, std = data.mean(0), np.sqrt(data.var(0) + 1e-8)
    deviation = float(np.sqrt(np.var(returns) + 1e-8))
    return Scales(torch.from_numpy(mean).float(), torch.from_numpy(std).float(), deviation)


def train_in_lock_step(config: RunConfig, graph: Topology, turns: int) -> list[ReferenceLearner]:
    """Run `turns` turns of all learners, each mixing by its row of the graph's matrix."""
    learners = [ReferenceLearner(config, rank) for rank in range(graph.size)]
    together = Together(config, graph, learners)
    for turn in range(1, turns + 1):
        scales = together.scales_of(learners)
        for learner in learners if scales else ():
            learner.normaliser.enter(scales)
        for learner in learners:
            learner.algorithm.schedule(turn - 1, turns)
        rollouts = [learner.collect() for learner in learners]
        if scales or not together.normalises:
            together.learn(rollouts, turn)
    return learners


class Together:
    """What learners do with the rollouts of one turn: they update, and exchange."""

    def __init__(
        self, config: RunConfig, graph: Topology, learners: list[ReferenceLearner]
    ) -> None:
        self.config, self.graph, self.learners, self.round = config, graph, learners, 0
        self.before = [learner.algorithm.state()["parameters"].clone() for learner in learners]
        self.velocities = [torch.zeros_like(vector) for vector in self.before]
        self.normalises = config.environment.norm_obs and config.environment.norm_reward

    def scales_of(self, learners: list[ReferenceLearner]) -> Scales | None:
        """Return the scales of the data of `learners`, if any are wanted."""
        return scales_of(learners) if self.normalises else None

    def learn(self, rollouts: list[Rollout], turn: int) -> None:
        """Learn from what turn `turn`, counted from 1, has brought."""
        learners, gossip = self.learners, self.config.gossip
        if gossip.method == "allreduce":
            step_together(learners, rollouts)
        else:
            for learner, rollout in zip(learners, rollouts, strict=True):
                learner.algorithm.update(rollout)
        for learner in learners if self.normalises else ():
            learner.normaliser.leave()
        if gossip.method == "allreduce" or not gossips(gossip, self.config.seed, turn):
            return
        state = learners[0].algorithm.state()
        names = list(state) if gossip.gossip_optimizer else ["parameters"]
        mix(learners, self.graph, self.round, names, gossip.ball_floor)
        self.round += 1
        if gossip.outer_steps:
            for learner, *state in zip(learners, self.before, self.velocities, strict=True):
                step_outside(learner.algorithm.state()["parameters"], *state, gossip)


def gossips(gossip: GossipConfig, seed: int, turn: int) -> bool:
    """Whether a round follows turn `turn`, counted from 1."""
    coin = np.random.default_rng((seed, 0, turn)).random()
    return turn % gossip.gossip_every == 0 and bool(coin < gossip.gossip_probability)


def step_together(learners: list[ReferenceLearner], rollouts: list[Rollout]) -> None:
    """Let everyone update, with the mean of all gradients in the place of each."""
    everyone, gradients = Barrier(len(learners)), [torch.empty(0)] * len(learners)

    def reduce(rank: int) -> bool:
        own = learners[rank].algorithm.parameters.grad
        gradients[rank] = own.clone()
        everyone.wait(DEADLINE_S)
        own.copy_(weighted_sum([1 / len(learners)] * len(learners), gradients))
        everyone.wait(DEADLINE_S)
        return True

    with ThreadPoolExecutor(len(learners)) as pool:
        updates = [
            pool.submit(learner.algorithm.update, rollout, partial(reduce, rank))
            for rank, (learner, rollout) in enumerate(zip(learners, rollouts, strict=True))
        ]
        for update in updates:
            update.result()


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
