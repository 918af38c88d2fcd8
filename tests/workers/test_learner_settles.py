"""The start of a learner of one of several nodes: how long it waits, and where it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from galamp.core.nodes import Ranks
from galamp.gossip.exchange import Exchange
from galamp.gossip.topologies import make_topology
from galamp.gossip.transport.base import TransportContext
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.gossip.transport.publication import FOLLOWS
from galamp.gossip.transport.shared_memory import SharedMemoryTransport
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.control import ControlBlock
from galamp.memory.learner_state import State
from galamp.memory.status import StatusBoard
from galamp.memory.versioned_slots import Header
from galamp.workers.learner import Learner

SIZE = 5


@pytest.mark.parametrize("settled", [False, True])
def test_a_learner_waits_for_12_s_at_most(settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, now_s = Ranks(0, 2, 1), [100.0]
    arrays = SharedArrays.create(ClusterBoard.specs(2, 2))
    if settled:
        ClusterBoard(arrays, 2, 2).settle()
    clock = SimpleNamespace(
        monotonic=lambda: now_s[0], sleep=lambda s: now_s.__setitem__(0, now_s[0] + s)
    )
    monkeypatch.setattr("galamp.workers.learner.time", clock)
    learner = object.__new__(Learner)
    learner.task = SimpleNamespace(place=ranks, rank=0, arrays=arrays)  # type: ignore[assignment]
    learner.idle = lambda: None  # type: ignore[method-assign]
    learner.exchange = SimpleNamespace(mean_of=lambda learners: None)  # type: ignore[assignment]
    learner._begin_where_others_are()
    assert now_s[0] - 100.0 == pytest.approx(0.0 if settled else 12.0, abs=0.1)


def starting(
    rank: int, mirrored: dict[int, float], saved: float | None, dead: tuple[int, ...] = ()
) -> Learner:
    """Learner `rank` of node 1 of four with two learners each, before it restores its state.

    Args:
        rank: its number.
        mirrored: learners of other nodes that have been heard, and the value of their vectors. All
            others' mirrors follow, and hold what no learner must begin with.
        saved: value of its parameters in the checkpoint of a resume; None: it starts anew.
        dead: of those in `mirrored`, the ones that do not train any more.
    """
    ranks = Ranks(1, 4, 2)
    graph = make_topology("one-peer-exponential", ranks.all)
    specs = ControlBlock.specs(ranks.all) + StatusBoard.specs(2, 1, (), len(ranks.remote))
    specs += ClusterBoard.specs(ranks.nodes, ranks.all) + gossip_specs(graph, SIZE)
    arrays = SharedArrays.create(specs)
    ControlBlock(arrays).prepare()
    board = ClusterBoard(arrays, ranks.nodes, ranks.all)
    board.settle()
    for number in range(ranks.all):
        slots = ParameterSlots(arrays, number)
        slots.payload[slots.begin_write()] = mirrored.get(number, 1000.0)
        own = number in mirrored or number < ranks.lanes
        slots.end_write(incarnation=1 if own else FOLLOWS, round_=1, version=1)
        board.set_rank(number, "mirrored", number in mirrored)
        board.set_rank(number, "alive", number in mirrored and number not in dead)
    exchange: Any = object.__new__(Exchange)
    wakeups = tuple(Wakeup() for _ in range(ranks.all))
    exchange._transport = SharedMemoryTransport(
        TransportContext(arrays, rank, graph, SIZE, wakeups)
    )
    exchange._gradient = torch.empty(SIZE)
    exchange.resume_from = lambda turn, rounds: None
    learner: Any = object.__new__(Learner)
    learner.task = SimpleNamespace(place=ranks, rank=rank, arrays=arrays)
    learner.status = StatusBoard(arrays, 2, len(ranks.remote)).learner(rank)
    learner.idle, learner.save = lambda: None, lambda save_id: None
    learner.exchange, learner.normaliser, learner._incarnation = exchange, None, 0
    state = {"parameters": torch.full((SIZE,), -1.0), "momentum": torch.full((SIZE,), -1.0)}
    generator = torch.Generator()
    learner.algorithm = SimpleNamespace(state=lambda: state, generator=generator, version=0)
    found = None
    if saved is not None:
        tensors = {name: np.full(SIZE, saved, np.float32) for name in state}
        counters = {"turns": 7, "rounds": 7, "updates": 7, "agent_steps": 70}
        found = (
            State(tensors, counters, generator.get_state().numpy(), np.zeros(0)),
            Header(1, 0, 7, 1, 0),
        )
    learner._states = SimpleNamespace(restore=lambda: found)
    return learner


@pytest.mark.parametrize("saved", [None, 50.0], ids=["start", "resume"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_learner_begins_with_the_mean_of_the_same_lane_of_nodes_that_are_heard(
    rank: int, saved: float | None
) -> None:
    """Of three other nodes two are heard; the mirrors of the third follow learners of this one."""
    heard = {2: 10.0, 3: 70.0, 6: 20.0, 7: 90.0}
    learner = starting(rank, heard, saved)
    learner._restore()
    found = learner.algorithm.state()
    assert found["parameters"].tolist() == [(15.0, 80.0)[rank]] * SIZE
    own = -1.0 if saved is None else saved
    assert found["momentum"].tolist() == [own] * SIZE, "of the optimiser's state it keeps its own"
    assert learner.status["agent_steps"] == (0 if saved is None else 70)


@pytest.mark.parametrize(
    ("heard", "dead", "expected"),
    [
        ({2: 10.0, 6: 20.0}, (6,), 10.0),
        ({2: 10.0, 3: 70.0, 7: 90.0}, (2,), 80.0),  # of its lane none, so all that train
        ({3: 70.0}, (), 70.0),
        ({2: 10.0, 3: 70.0}, (2, 3), -1.0),
        ({}, (), -1.0),
    ],
)
def test_a_learner_begins_with_those_that_train_and_not_with_dead_ones(
    heard: dict[int, float], dead: tuple[int, ...], expected: float
) -> None:
    """What a dead learner has published last grows old, while the others of its node train on."""
    learner = starting(0, heard, None, dead)
    learner._restore()
    assert learner.algorithm.state()["parameters"].tolist() == [expected] * SIZE


@pytest.mark.parametrize("saved", [None, 50.0], ids=["start", "resume"])
def test_a_learner_that_hears_nobody_begins_with_its_own(saved: float | None) -> None:
    learner = starting(0, {}, saved)
    learner._restore()
    own = -1.0 if saved is None else saved
    assert learner.algorithm.state()["parameters"].tolist() == [own] * SIZE
