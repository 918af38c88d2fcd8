"""`--pipeline` in one thread, as plainly as can be: a turn learns from what the last one played.

    turn k: act for rollout k by the parameters as they are, then learn from rollout k - 1, and mix

A learner of `reference` learns, a second one with its own copy of everything plays.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from galamp.algorithms.base import Rollout
from galamp.core.config import RunConfig
from galamp.gossip.topologies.base import Topology
from tests.support.reference import ReferenceLearner, Scales, Together


class Played(NamedTuple):
    """The rollouts of one turn, and what their players remembered at the start of them."""

    rollouts: list[Rollout]
    memories: list[Tensor | None]
    scales: Scales | None


def train_in_pipeline(config: RunConfig, graph: Topology, turns: int) -> list[ReferenceLearner]:
    """Play `turns` turns, and learn from all of them."""
    learners = [ReferenceLearner(config, rank) for rank in range(graph.size)]
    players = [ReferenceLearner(config, rank) for rank in range(graph.size)]
    for learner, player in zip(learners, players, strict=True):
        learner.algorithm.generator = player.algorithm.generator
    together, before = Together(config, graph, learners), None
    for turn in range(1, turns + 1):
        played = play(learners, players, together.scales_of(players), turn - 1, turns)
        if before is not None:
            learn(together, before, turn - 1)
        before = played if played.scales or not together.normalises else None
    assert before is not None
    learn(together, before, turns)
    for learner, player in zip(learners, players, strict=True):
        learner.normaliser = player.normaliser
    return learners


def play(
    learners: list[ReferenceLearner],
    players: list[ReferenceLearner],
    scales: Scales | None,
    done: int,
    turns: int,
) -> Played:
    for learner, player in zip(learners, players, strict=True):
        player.algorithm.follow(learner.algorithm)
        player.algorithm.schedule(done, turns)
        if scales:
            player.normaliser.enter(scales)
            if learner.normaliser.scales is None:  # the first weights are for the first scales
                learner.normaliser.enter(scales)
                learner.normaliser.leave()
    memories = [player.algorithm.memory for player in players]
    copies = [None if memory is None else memory.clone() for memory in memories]
    return Played([player.collect() for player in players], copies, scales)


def learn(together: Together, played: Played, turn: int) -> None:
    for learner, memory in zip(together.learners, played.memories, strict=True):
        turns = together.config.total_steps
        by_all = together.config.algorithm.num_steps * together.config.environment.num_envs
        learner.algorithm.schedule((turn - 1) * by_all * len(together.learners), turns)
        if played.scales:
            learner.normaliser.enter(played.scales)
        if memory is not None:
            learner.algorithm.remember(memory)
    together.learn(played.rollouts, turn)
