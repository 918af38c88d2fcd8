"""Learners in lock-step equal one process, bit for bit, by every way to exchange parameters.

All cases are trained by a run's learners in threads of this process, and one as a real run, too:
the slow set has all as real runs. Algorithms, actions and networks: `test_lock_step_algorithms`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor

from galamp.core.config import RunConfig
from galamp.gossip.topologies import make_topology
from tests.support.command_lines import parsed
from tests.support.engine import also
from tests.support.in_process import planned
from tests.support.pipelined_reference import train_in_pipeline
from tests.support.reference import ReferenceLearner, gossips, train_in_lock_step
from tests.support.same_bits import assert_learners_equal, assert_run_equals


class Case(NamedTuple):
    """A run of A2C, by the flags that it has besides."""

    learners: int
    turns: int
    flags: tuple[object, ...] = ("--sync",)
    env_id: str = "CartPole-v1"
    envs: int = 4
    workers: int = 1
    identical: bool = False

    @property
    def words(self) -> list[str]:
        """The command line of the run, without its folder."""
        total = self.turns * NUM_STEPS * self.envs * self.learners
        numbers = {
            "learners": self.learners, "num-envs": self.envs, "total-steps": total, "seed": 11,
            "threads": 1, "env-splits": 1, "simulator-workers": self.workers,
        }  # fmt: skip
        words = [word for name, n in numbers.items() for word in (f"--{name}", str(n))]
        return ["--env-id", self.env_id, "--device", "cpu", *words, *map(str, self.flags)]


def graph(name: str) -> tuple[object, ...]:
    return ("--sync", "--topology", name)


NUM_STEPS = 5
FLOOR = 0.0003
"""Some averages of the first turns move CartPole's learners by more than this, others by less."""

PIPELINE = ("--sync", "--algorithm", "vtrace", "--pipeline")

CASES = {
    "ring": Case(3, 16, ("--sync", "--lr-schedule", "cosine")),
    # Two learners that average with each other are one after every round; three are not.
    "workers": Case(2, 8, workers=3, identical=True),
    "atari": Case(2, 3, env_id="ALE/Breakout-v5", envs=2, workers=2, identical=True),
    # Bytes that are not divided by 255, and the network for small images.
    "small-images": Case(2, 8, env_id="tests.support.spaces:cube", identical=True),
    "pipeline": Case(3, 16, (*PIPELINE, "--lr-schedule", "cosine")),
    "pipeline-atari": Case(2, 3, PIPELINE, "ALE/Breakout-v5", 2, 2, identical=True),
    "max-staleness-0": Case(3, 12, ("--max-staleness", 0)),
    "bidirectional-ring": Case(4, 12, graph("bidirectional-ring")),
    # An even number of rounds of two, after which four are one.
    "one-peer-exponential": Case(4, 13, graph("one-peer-exponential")),
    # In every round one of three keeps its own; after 12 rounds they would be one but for rounding.
    "base-2": Case(3, 14, graph("base-2")),
    "star": Case(3, 12, graph("star")),
    # Parameters are published for measuring after turns 8 and 16, too, and sent to nobody.
    "every-3": Case(3, 20, ("--sync", "--gossip-every", 3)),
    "probability": Case(3, 20, ("--sync", "--gossip-probability", 0.5)),
    "optimizer": Case(3, 12, ("--sync", "--gossip-optimizer")),
    "global-average": Case(3, 16, ("--sync", "--global-average-every", 3)),
    "outer-momentum": Case(3, 12, ("--sync", "--outer-momentum", 0.9, "--outer-lr", 0.7)),
    "ball-floor": Case(3, 12, ("--sync", "--ball-floor", FLOOR)),
    "allreduce-2": Case(2, 8, ("--method", "allreduce"), identical=True),
    "allreduce-3": Case(3, 8, ("--method", "allreduce"), identical=True),
}


# Another graph, another count, and another game, of what stays.
SECOND = ("bidirectional-ring", "allreduce-2", "pipeline-atari")


@pytest.mark.parametrize("name", [also(name) if name in SECOND else name for name in CASES])
def test_learners_equal_one_process(name: str) -> None:
    case = CASES[name]
    plan = planned(parsed(*case.words))
    learners = assert_learners_equal(plan, referred(case, plan.config))
    for learner in learners:
        assert_mixed(case, plan.config, learner.task.rank, learner.status.counter("mixes"))
    assert_alike(case, [learner.algorithm.parameters.data for learner in learners])


@pytest.mark.parametrize("name", [name if name == "ring" else also(name) for name in CASES])
def test_a_run_equals_one_process(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    config = planned(parsed(*case.words)).config
    expected = referred(case, config)
    for learner in assert_run_equals(tmp_path / "run", case.words, expected).learners:
        assert learner.counters["turns"] == learner.counters["updates"] == case.turns
        assert_mixed(case, config, learner.rank, learner.counters["mixes"])
    assert_alike(case, [learner.algorithm.parameters.data for learner in expected])


def referred(case: Case, config: RunConfig) -> list[ReferenceLearner]:
    """Train in this thread, by the settings of a plan."""
    every = config.gossip.global_average_every
    graph = make_topology(config.gossip.topology, case.learners, global_average_every=every)
    train = train_in_pipeline if config.algorithm.pipeline else train_in_lock_step
    return train(config, graph, case.turns)


def assert_mixed(case: Case, config: RunConfig, rank: int, mixes: int) -> None:
    """In every round in which there are peers; above a floor, in some of them."""
    rounds = sum(gossips(config.gossip, config.seed, turn) for turn in range(1, case.turns + 1))
    peers = make_topology(config.gossip.topology, case.learners).in_peers
    most = sum(bool(peers(rank, round_)) for round_ in range(rounds))
    if config.gossip.method == "allreduce":
        most = rounds
    if config.gossip.ball_floor is None:
        assert mixes == most
    else:
        assert 0 < mixes < most, rank


def assert_alike(case: Case, vectors: list[Tensor]) -> None:
    same = [vectors[0].equal(vector) for vector in vectors[1:]]
    assert all(same) if case.identical else not any(same)
