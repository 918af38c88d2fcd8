"""Lock-step runs of real processes equal one process, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galamp.algorithms.a2c_config import A2CConfig
from galamp.core.config import EnvironmentConfig, GossipConfig, RunConfig
from galamp.gossip.topologies import make_topology
from galamp.storage import checkpoint
from tests.support.engine import run
from tests.support.reference import ReferenceLearner, gossips, train_in_lock_step


@dataclass(frozen=True)
class Case:
    """A run, and the gossip settings that its flags stand for."""

    learners: int
    turns: int
    flags: tuple[object, ...] = ("--sync",)
    gossip: dict[str, Any] = field(default_factory=dict)
    topology: str = "ring"
    env_id: str = "CartPole-v1"
    envs: int = 4
    workers: int = 1
    identical: bool = False
    lr_schedule: str = "constant"


def graph(name: str) -> tuple[object, ...]:
    return ("--sync", "--topology", name)


FLOOR = 0.0003
"""Some averages of the first turns move CartPole's learners by more than this, others by less."""

CASES = {
    "ring": Case(3, 40, ("--sync", "--lr-schedule", "cosine"), lr_schedule="cosine"),
    # Two learners that average with each other are one after every round; three are not.
    "workers": Case(2, 20, workers=3, identical=True),
    "atari": Case(2, 12, env_id="ALE/Breakout-v5", workers=2, identical=True),
    # Bytes that are not divided by 255, and the network for small images.
    "small-images": Case(2, 8, env_id="tests.support.spaces:cube", identical=True),
    "max-staleness-0": Case(3, 12, ("--max-staleness", 0)),
    "bidirectional-ring": Case(4, 12, graph("bidirectional-ring"), topology="bidirectional-ring"),
    # An even number of rounds of two, after which four are one.
    "one-peer-exponential": Case(
        4, 13, graph("one-peer-exponential"), topology="one-peer-exponential"
    ),
    # In every round one of three keeps its own; after 12 rounds they would be one but for rounding.
    "base-2": Case(3, 14, graph("base-2"), topology="base-2"),
    "star": Case(3, 12, graph("star"), topology="star"),
    # Parameters are published for measuring after turns 8 and 16, too, and sent to nobody.
    "every-3": Case(3, 20, ("--sync", "--gossip-every", 3), {"gossip_every": 3}),
    "probability": Case(
        3, 20, ("--sync", "--gossip-probability", 0.5), {"gossip_probability": 0.5}
    ),
    "optimizer": Case(3, 12, ("--sync", "--gossip-optimizer"), {"gossip_optimizer": True}),
    "global-average": Case(
        3, 16, ("--sync", "--global-average-every", 3), {"global_average_every": 3}
    ),
    "outer-momentum": Case(
        3,
        12,
        ("--sync", "--outer-momentum", 0.9, "--outer-lr", 0.7),
        {"outer_momentum": 0.9, "outer_lr": 0.7},
    ),
    "ball-floor": Case(3, 12, ("--sync", "--ball-floor", FLOOR), {"ball_floor": FLOOR}),
    "allreduce-2": Case(2, 20, ("--method", "allreduce"), {"method": "allreduce"}, identical=True),
    "allreduce-3": Case(3, 20, ("--method", "allreduce"), {"method": "allreduce"}, identical=True),
}
SLOW = {
    "max-staleness-0", "bidirectional-ring", "star", "probability", "optimizer", "allreduce-2",
    "every-3", "workers", "one-peer-exponential", "atari", "allreduce-3", "global-average",
    "base-2", "outer-momentum", "ball-floor",
}  # fmt: skip
"""What these add to the others is tested in one process, too: the gate leaves them out."""
SEED = 11


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES]
)
def test_equals_one_process(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    config = RunConfig(
        seed=SEED,
        environment=EnvironmentConfig(env_id=case.env_id, num_envs=case.envs),
        algorithm=A2CConfig(learning_rate=7e-4 * case.learners**0.5, lr_schedule=case.lr_schedule),
        gossip=GossipConfig(topology=case.topology, **case.gossip),
    )
    saved = trained(case, config, tmp_path / "run")
    reference = referred(case, config)
    rounds = sum(gossips(config.gossip, SEED, turn) for turn in range(1, case.turns + 1))
    vectors = []
    for learner, expected in zip(saved.learners, reference, strict=True):
        for key, value in expected.algorithm.parameters.named().items():
            assert np.array_equal(learner.parameters[key], value.numpy()), (learner.rank, key)
        state = expected.algorithm.state()["square_average"].numpy()
        assert np.array_equal(learner.optimizer["square_average"], state)
        assert np.array_equal(learner.generator, expected.algorithm.generator.get_state().numpy())
        assert learner.counters["updates"] == learner.counters["turns"] == case.turns
        most = mixes(case, learner.rank, rounds)
        if config.gossip.ball_floor is None:
            assert learner.counters["mixes"] == most
        else:
            assert 0 < learner.counters["mixes"] < most, learner.rank
        vectors.append(np.concatenate([v.ravel() for v in learner.parameters.values()]))
    same = [np.array_equal(vectors[0], vector) for vector in vectors[1:]]
    assert all(same) if case.identical else not any(same)


def mixes(case: Case, rank: int, rounds: int) -> int:
    """Of so many rounds, those in which a learner has peers."""
    if case.gossip.get("method") == "allreduce":
        return rounds
    peers = make_topology(case.topology, case.learners).in_peers
    return sum(bool(peers(rank, round_)) for round_ in range(rounds))


def trained(case: Case, config: RunConfig, folder: Path) -> checkpoint.Checkpoint:
    """Train in processes; returns the last checkpoint."""
    total = case.turns * config.algorithm.num_steps * case.envs * case.learners
    arguments = ["--env-id", case.env_id, "--learners", case.learners, "--num-envs", case.envs]
    arguments += ["--seed", SEED, "--total-steps", total, "--threads", 1, "--env-splits", 1]
    arguments += ["--simulator-workers", case.workers, "--quiet", "--run-dir", folder, *case.flags]
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stderr
    return checkpoint.load(folder / "checkpoints" / "latest")


def referred(case: Case, config: RunConfig) -> list[ReferenceLearner]:
    """Train in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        every = config.gossip.global_average_every
        graph = make_topology(case.topology, case.learners, global_average_every=every)
        return train_in_lock_step(config, graph, case.turns)
    finally:
        torch.set_num_threads(threads)
