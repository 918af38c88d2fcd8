"""What learners exchange and when, in one process: schedule, parameters, gradients, measuring."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from galamp.algorithms import make_algorithm
from galamp.algorithms.a2c_config import A2CConfig
from galamp.algorithms.base import Rollout
from galamp.algorithms.networks import build_model
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import GossipConfig, from_dict
from galamp.core.machine.machine import plain_machine
from galamp.environments.base import EnvironmentSpec
from galamp.gossip import exchange as exchange_module
from galamp.gossip import mixing
from galamp.gossip.consensus.distances import CHUNK, TRIES, DistanceMeter, Measured
from galamp.gossip.consensus.radius import radius_per_update
from galamp.gossip.consensus.theoretical_radius import TheoreticalRadius
from galamp.gossip.exchange import (
    GRADIENTS,
    SAMPLE_EVERY,
    WATCH_EVERY_S,
    WATCH_EVERY_TURNS,
    Exchange,
    exchange_specs,
)
from galamp.gossip.schedule import Schedule
from galamp.gossip.topologies import make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.independent import Independent
from galamp.gossip.transport.parameter_slots import ParameterSlots, gossip_specs
from galamp.gossip.transport.publication import Publication
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard, StatusRow
from galamp.storage.run_folder import RunFolder
from galamp.supervision.layout import ModelSketch, RunLayout
from galamp.supervision.plan import make_plan
from galamp.telemetry.consensus import ConsensusMonitor

SIZE = 6
"""Parameters of a learner here; its optimiser holds as many."""


def measure_distances(slots: Sequence[ParameterSlots], size: int) -> Measured | None:
    return DistanceMeter(slots, size).distances()


def mean_cosine(slots: Sequence[ParameterSlots], size: int) -> float | None:
    return DistanceMeter(slots, size).mean_cosine()


class Clock:
    """A `time` module that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(exchange_module, "time", clock)
    monkeypatch.setattr(mixing, "time", clock)
    return clock


class World:
    """Learners of one process, each with parameters, an optimiser's vector and a gradient."""

    def __init__(
        self,
        graph: str,
        learners: int,
        config: GossipConfig,
        *,
        size: int = SIZE,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.topology: Topology = make_topology(
            graph, learners, global_average_every=config.global_average_every
        )
        self.config = config
        specs = ControlBlock.specs(learners) + StatusBoard.specs(learners, 1)
        specs += exchange_specs(config, self.topology, {"parameters": size, "square": size})
        self.arrays = SharedArrays.create(specs)
        self.control = ControlBlock(self.arrays)
        self.control.prepare()
        self.parameters = [torch.zeros(size) for _ in range(learners)]
        self.squares = [torch.ones(size) for _ in range(learners)]
        self.gradients = [torch.zeros(size) for _ in range(learners)]
        wakeups = [Wakeup() for _ in range(learners)]
        self.rows: list[StatusRow] = []
        self.exchanges = []
        for rank in range(learners):
            self.control.set_alive(rank, True)
            self.rows.append(StatusBoard(self.arrays, learners).learner(rank))
            one = Exchange(
                self.arrays,
                rank,
                self.topology,
                config,
                state={"parameters": self.parameters[rank], "square": self.squares[rank]},
                gradient=self.gradients[rank],
                seed=1,
                wakeups=wakeups,
                row=self.rows[rank],
                idle=idle,
            )
            one.resume_from(0, 0)
            self.exchanges.append(one)
        self.slots = [ParameterSlots(self.arrays, rank) for rank in range(learners)]

    def turn(self, rank: int, *update: float) -> None:
        """Let a learner take a step by `update`, in the first directions, and end its turn."""
        self.parameters[rank][: len(update)] += torch.tensor(update)
        self.exchanges[rank].turn(1)

    def newest(self, rank: int, name: str = "parameters") -> torch.Tensor:
        slots = ParameterSlots(self.arrays, rank, name)
        read = slots.begin_read()
        assert read is not None
        return slots.payload[read.slot]

    def publication_ring(self, rank: int) -> list[Publication]:
        publications, lost = PublicationRing(self.arrays, rank).drain()
        assert not lost
        return [publication for _, publication in publications]


# Schedule


@pytest.mark.parametrize("every", [1, 3, 7])
def test_gossip_every_so_many_turns(every: int) -> None:
    schedule = Schedule(GossipConfig(gossip_every=every), 1, 0)
    due = [turn for turn in range(1, 43) if schedule.due(turn)]
    assert due == list(range(every, 43, every))


def turns_due(seed: int = 1, rank: int = 0, turns: int = 4000, **config: object) -> list[bool]:
    schedule = Schedule(GossipConfig(**config), seed, rank)  # type: ignore[arg-type]
    return [schedule.due(turn) for turn in range(1, turns + 1)]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("every", [1, 4])
def test_the_share_of_turns_with_gossip_is_its_probability(probability: float, every: int) -> None:
    found = turns_due(gossip_probability=probability, gossip_every=every)
    tosses = found[every - 1 :: every]
    assert sum(found) == sum(tosses), "between them there is never any"
    # Five standard deviations: one seed in two million would be refused.
    allowance = 5 * math.sqrt(probability * (1 - probability) / len(tosses))
    assert abs(np.mean(tosses) - probability) < allowance


def test_certain_and_impossible_gossip() -> None:
    assert not any(turns_due(gossip_probability=0.0))
    assert all(turns_due(gossip_probability=1.0))


def test_a_coin_is_tossed_by_seed_rank_and_turn_alone() -> None:
    half = GossipConfig(gossip_probability=0.5)
    forth = Schedule(half, 1, 0)
    assert [forth.due(t) for t in range(200, 0, -1)][::-1] == turns_due(
        gossip_probability=0.5, turns=200
    ), "whatever was asked before"
    found = {
        (seed, rank): tuple(turns_due(seed, rank, 200, gossip_probability=0.5))
        for seed in (1, 2)
        for rank in range(4)
    }
    assert len(set(found.values())) == len(found), "everyone has a coin of their own"


@pytest.mark.parametrize("synchronous", [{"sync": True}, {"max_staleness": 0}])
def test_in_lock_step_all_toss_one_coin(synchronous: dict[str, object]) -> None:
    coins = [turns_due(3, rank, 200, gossip_probability=0.5, **synchronous) for rank in range(4)]
    assert coins[0] == coins[1] == coins[2] == coins[3]
    assert coins[0] != turns_due(4, 0, 200, gossip_probability=0.5, **synchronous)


# Parameters


def test_parameters_that_are_not_due_are_sent_to_nobody(clock: Clock) -> None:
    world = World("ring", 2, GossipConfig(gossip_every=3))
    for turn in range(1, 10):
        for rank in range(2):
            world.turn(rank, 1.0 + rank)
        assert [row.metrics["sent"] for row in world.rows] == [turn // 3] * 2
        assert [row["rounds"] for row in world.rows] == [turn // 3] * 2
    assert [row.metrics["mixes"] for row in world.rows] == [2, 3], "learner 0 sends before it hears"


def test_gossip_that_never_takes_place(clock: Clock) -> None:
    world = World("ring", 2, GossipConfig(gossip_probability=0.0))
    for _ in range(20):
        clock.now_s += 1.0
        for rank in range(2):
            world.turn(rank, 1.0 + rank)
    assert [row.metrics["sent"] for row in world.rows] == [0, 0]
    assert [row.metrics["published"] for row in world.rows] == [20, 20]
    assert world.parameters[0][0] == 20.0


def test_the_optimisers_state_stays_ones_own() -> None:
    world = World("ring", 2, GossipConfig())
    world.squares[1].fill_(9.0)
    world.turn(1, 4.0)
    world.turn(0, 0.0)
    assert world.parameters[0][0] == 2.0
    assert (world.squares[0] == 1.0).all()
    assert world.slots[0].payload.shape == (2, SIZE)


def test_the_optimisers_state_is_averaged_with_the_same_weights() -> None:
    world = World("star", 3, GossipConfig(gossip_optimizer=True, sync=True))
    random = np.random.default_rng(1)
    for vector in (*world.parameters, *world.squares):
        vector.copy_(torch.from_numpy(random.normal(size=SIZE)))
    before = [np.stack([v.numpy().copy() for v in vs]) for vs in (world.parameters, world.squares)]
    gossipers = [one._parameters for one in world.exchanges]
    for gossiper in gossipers:
        gossiper.publish(1)
    assert world.slots[0].payload.shape == (2, 2 * SIZE)
    for gossiper in gossipers:
        gossiper.mix()
    third = 1 / 3
    weights = np.array([[third, third, third], [third, 2 * third, 0], [third, 0, 2 * third]])
    for old, new in zip(before, (world.parameters, world.squares), strict=True):
        assert np.allclose(np.stack([v.numpy() for v in new]), weights @ old, atol=1e-6)


def test_the_optimisers_state_is_no_part_of_what_is_measured() -> None:
    world = World("ring", 2, GossipConfig(gossip_optimizer=True))
    for rank in range(2):
        world.squares[rank].fill_(100.0 * rank)
        world.turn(rank, 6.0 * rank)
    measured = measure_distances(world.slots, SIZE)
    assert measured is not None
    assert measured.to_mean.tolist() == [3.0, 3.0]
    assert world.publication_ring(1)[0].length == pytest.approx(6.0, rel=1e-4)


# Published to be watched


def lengths(publications: list[Publication]) -> list[float]:
    return [publication.length for publication in publications]


def test_learners_on_their_own_are_watched_now_and_then(clock: Clock) -> None:
    world = World("none", 2, GossipConfig(method="independent", topology="none"))
    for _ in range(12):
        clock.now_s += WATCH_EVERY_S / 4 + 1e-6
        world.turn(0, 1.0)
    found = world.publication_ring(0)
    assert [p.number for p in found] == [1, 2, 3], "after turns 1, 5 and 9"
    assert lengths(found) == pytest.approx([1.0, 4.0, 4.0], rel=1e-4), "all turns since the last"
    assert all(p.own == 1.0 and not p.mixed for p in found)
    assert (world.newest(0)[0], world.rows[0].metrics["sent"]) == (9.0, 0)


def test_in_lock_step_all_are_watched_after_the_same_turns() -> None:
    world = World("ring", 2, GossipConfig(gossip_every=10**6, sync=True))
    for _ in range(2 * WATCH_EVERY_TURNS + 3):
        for rank in range(2):
            world.turn(rank, 1.0)
    for rank in range(2):
        assert lengths(world.publication_ring(rank)) == pytest.approx(
            [WATCH_EVERY_TURNS] * 2, rel=1e-4
        )
    assert [row.metrics["sent"] for row in world.rows] == [0, 0]


def test_who_is_told_that_gossip_is_not_wanted_is_watched(clock: Clock) -> None:
    world = World("ring", 2, GossipConfig())
    for wanted in (True, False, True):
        world.control.gossip_enabled = wanted
        for _ in range(3):
            clock.now_s += 1.0
            for rank in range(2):
                world.turn(rank, 1.0 + rank)
    assert [row.metrics["sent"] for row in world.rows] == [6, 6]
    assert [row.metrics["published"] for row in world.rows] == [9, 9]
    found = world.publication_ring(1)
    assert lengths(found) == pytest.approx([2.0] * 9, rel=1e-4)
    assert [len(p.mixed) for p in found] == [0, 1, 1, 1, 0, 0, 0, 1, 1]


def test_lengths_cover_every_update_once(clock: Clock) -> None:
    """Each published vector is its mixture plus an update of just the length that is told of."""
    world = World("ring", 2, GossipConfig(gossip_every=4, max_staleness=None))
    random = np.random.default_rng(2)
    found: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for rank in range(2):
        found[rank, 0] = np.zeros(SIZE)
    publication_rings = [PublicationRing(world.arrays, rank) for rank in range(2)]
    kinds = set()
    for _ in range(80):
        clock.now_s += WATCH_EVERY_S / 1.5
        rank = int(random.integers(2))
        world.turn(rank, *random.normal(size=SIZE))
        for _, publication in publication_rings[rank].drain()[0]:
            number = publication.number
            # The turn is over: what was published lies in its slot, and may be mixed by now.
            published = world.newest(rank).numpy().astype(float)
            found[rank, number] = published
            origin = publication.own * found[rank, number - 1]
            for source in publication.mixed:
                origin = origin + source.weight * found[source.peer, source.number]
            length = float(np.linalg.norm(published - origin))
            assert length == pytest.approx(publication.length, rel=1e-4)
            assert length <= publication.length
            kinds.add(len(publication.mixed))
    assert kinds == {0, 1}


def test_whoever_was_sent_something_finds_it_or_something_newer(clock: Clock) -> None:
    """What is published to be watched pushes out what a peer was told of, and does as well."""
    world = World("ring", 2, GossipConfig(gossip_every=4))
    for _ in range(7):  # sends after its turn 4
        clock.now_s += WATCH_EVERY_S + 1e-6
        world.turn(0, 1.0)
    for _ in range(4):  # mixes after its turn 4
        world.turn(1, 0.0)
    row = world.rows[1]
    assert (row.metrics["mixes"], row.metrics["retried"], row["staleness"]) == (1, 0, 0)
    assert world.parameters[1][0] == 3.5, "the newest"
    assert world.publication_ring(1)[-1].mixed == (), "it is told of when it is published"
    world.turn(1, 0.0)
    clock.now_s += WATCH_EVERY_S + 1e-6
    world.turn(1, 0.0)
    [publication] = [p for p in world.publication_ring(1) if p.mixed] or pytest.fail("none")
    assert publication.mixed == ((0, 7, 0.5),)


def test_the_ball_is_that_of_whole_rounds() -> None:
    """A round's update is all since the last mix, in however many pieces it was published."""
    config = GossipConfig(gossip_every=WATCH_EVERY_TURNS + 2, sync=True)
    world = World("ring", 3, config)
    for _ in range(WATCH_EVERY_TURNS + 1):
        for rank in range(3):
            world.turn(rank, 1.0)
    for rank in range(3):
        world.parameters[rank][0] += 1.0
        world.exchanges[rank]._parameters.publish(1)
    for one in world.exchanges:
        one._parameters.mix()
    for one in world.exchanges:
        one._parameters.publish(1, notify=False)
    ball = TheoreticalRadius(world.topology)
    for rank in range(3):
        for publication in world.publication_ring(rank):
            ball.receive(publication)
    per_update = radius_per_update(world.topology)
    assert per_update is not None
    update = WATCH_EVERY_TURNS + 2
    assert ball.radius == pytest.approx((per_update + 1) * update, rel=1e-4)


# Staleness


def test_without_a_bound_nobody_waits() -> None:
    world = World("ring", 2, GossipConfig(max_staleness=None), idle=pytest.fail)
    for _ in range(50):
        world.turn(0, 1.0)
    assert world.rows[0]["staleness"] == world.rows[0].metrics["most_staleness"] == 50


def test_patience_has_an_end(clock: Clock) -> None:
    waited: list[int] = []

    def be_idle() -> None:
        waited.append(1)
        clock.now_s += mixing.STALENESS_TIMEOUT_S / 2

    world = World("complete", 3, GossipConfig(max_staleness=2), idle=be_idle)
    for _ in range(2):
        world.turn(0, 1.0)
        assert not waited
    world.turn(0, 1.0)
    assert waited, "at the bound, for both others"
    assert world.rows[0]["staleness"] == 3
    assert world.rows[0].metrics["left_out"] == 0, "there was nothing to be left out of"
    world.parameters[1].fill_(8.0)
    world.exchanges[1]._parameters.publish(1)
    waited.clear()
    world.turn(0, 1.0)
    assert waited, "for learner 2"
    row = world.rows[0]
    assert (
        row.metrics["left_out"],
        row.metrics["received"],
        row.metrics["mixes"],
        row["staleness"],
    ) == (1, 1, 1, 0)
    assert world.parameters[0][0] == pytest.approx(6.0), "half of 4 and half of 8"


def test_below_the_bound_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("complete", 3, GossipConfig(max_staleness=2), idle=pytest.fail)
    world.exchanges[1]._parameters.publish(1)
    world.turn(0, 1.0)
    assert (world.rows[0].metrics["mixes"], world.rows[0].metrics["left_out"]) == (0, 0)


def test_nobody_waits_for_those_who_were_told_not_to_gossip(clock: Clock) -> None:
    """A learner at its bound when the others are told so must not wait until its deadline."""
    idle: list[float] = []

    def be_idle() -> None:
        world.control.gossip_enabled = False
        idle.append(clock.now_s)
        clock.now_s += 1.0

    world = World("ring", 2, GossipConfig(max_staleness=1), idle=be_idle)
    world.turn(0, 1.0)
    assert not idle
    world.turn(0, 1.0)
    assert 1 <= len(idle) <= 2


# Gradients


def together(world: World, act: Callable[[int], object]) -> None:
    """Let all learners act at the same time, in threads."""
    ranks = range(len(world.exchanges))
    with ThreadPoolExecutor(len(ranks)) as pool:
        list(pool.map(act, ranks, timeout=60))


@pytest.mark.parametrize("learners", [2, 3, 5])
def test_everyone_gets_the_mean_of_all_gradients(learners: int) -> None:
    config = GossipConfig(method="allreduce", certificate=False)
    world = World("none", learners, config)
    random = np.random.default_rng(learners)
    for turn in range(5):
        values = random.normal(size=(learners, SIZE)).astype(np.float32)
        if turn == 2:
            values[learners - 1] = 0.0
        for gradient, value in zip(world.gradients, values, strict=True):
            gradient.copy_(torch.from_numpy(value))
        together(world, lambda rank: world.exchanges[rank].reduce())
        share = (1 / learners) / sum([1 / learners] * learners)
        mean = torch.mul(torch.from_numpy(values[0]), share)
        for value in values[1:]:
            mean.add_(torch.from_numpy(value), alpha=share)
        assert np.allclose(mean.numpy(), values.astype(float).mean(0), atol=1e-6)
        for gradient in world.gradients:
            assert torch.equal(gradient, mean)
        for one in world.exchanges:
            one.turn(turn)
    assert all(one.reduces for one in world.exchanges)
    assert [row.metrics["sent"] for row in world.rows] == [5 * (learners - 1)] * learners


def rollout(valid: bool, seed: int) -> Rollout:
    steps, envs = 5, 4
    generator = torch.Generator().manual_seed(seed)
    never = torch.zeros(steps, envs, dtype=torch.bool)
    return Rollout(
        observations=torch.randn(steps + 1, envs, 4, generator=generator),
        actions=torch.randint(2, (steps, envs), generator=generator),
        rewards=torch.randn(steps, envs, generator=generator),
        terminated=never,
        truncated=never,
        valid=never | valid,
        first=torch.zeros(steps + 1, envs, dtype=torch.bool),
    )


def test_whose_rollout_is_void_takes_the_step_of_the_others() -> None:
    model = [build_model("mlp", (4,), "float32", 2, seed=1) for _ in range(2)]
    algorithms = [
        make_algorithm(
            A2CConfig(learning_rate=0.01), m, actions=DiscreteActions(2), device="cpu", seed=1
        )
        for m in model
    ]
    start = algorithms[0].parameters.data.clone()
    size = len(start)
    world = World("none", 2, GossipConfig(method="allreduce", certificate=False), size=size)
    for one, algorithm in zip(world.exchanges, algorithms, strict=True):
        assert one._gradients is not None
        one._gradients.vectors = [algorithm.parameters.grad]

    def update(rank: int) -> None:
        def reduce() -> bool:
            world.exchanges[rank].reduce()
            return world.exchanges[rank].reduces

        algorithms[rank].update(rollout(valid=rank == 0, seed=rank), reduce)

    together(world, update)
    assert [algorithm.version for algorithm in algorithms] == [1, 1]
    assert not torch.equal(algorithms[0].parameters.data, start)
    for name, tensor in algorithms[0].state().items():
        assert torch.equal(tensor, algorithms[1].state()[name]), name


def cosine_of(vectors: npt.NDArray[np.float32]) -> float:
    """The mean cosine of all pairs, pair by pair."""
    wide = vectors.astype(float)
    found = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for i, a in enumerate(wide)
        for b in wide[:i]
    ]
    return float(np.mean(found))


def test_gradients_are_left_to_be_compared(clock: Clock) -> None:
    world = World("ring", 3, GossipConfig(gradient_correlation=True))
    random = np.random.default_rng(3)
    samples = [ParameterSlots(world.arrays, rank, GRADIENTS) for rank in range(3)]
    for turn in range(2 * SAMPLE_EVERY + 1):
        values = random.normal(size=(3, SIZE)).astype(np.float32)
        for rank in range(3):
            world.gradients[rank].copy_(torch.from_numpy(values[rank]))
            world.exchanges[rank].reduce()
            assert np.array_equal(world.gradients[rank].numpy(), values[rank]), "left alone"
            assert not world.exchanges[rank].reduces
            assert samples[rank].published == turn // SAMPLE_EVERY + 1
            if turn % SAMPLE_EVERY == 0:
                assert np.array_equal(world.newest(rank, GRADIENTS).numpy(), values[rank])
            if turn == 0 and rank < 2:
                assert mean_cosine(samples, SIZE) is None, "not all have one"
            world.turn(rank)
        if turn % SAMPLE_EVERY == 0:
            expected = cosine_of(values)
        assert mean_cosine(samples, SIZE) == pytest.approx(expected, abs=1e-6)


def test_gradients_are_kept_only_where_asked_for() -> None:
    names = {
        spec.name for spec in exchange_specs(GossipConfig(), Independent(2), {"parameters": 4})
    }
    assert not any(name.startswith(GRADIENTS) for name in names)


def test_a_gradient_that_is_zero_has_no_direction() -> None:
    slots = published(np.array([[1.0, 2.0], [0.0, 0.0]], np.float32))
    assert mean_cosine(slots, 2) is None


# Measuring


def published(vectors: npt.NDArray[np.float32]) -> list[ParameterSlots]:
    """Return slots in which learners have published `vectors` [n, size]."""
    graph = Independent(len(vectors))
    arrays = SharedArrays.create(gossip_specs(graph, vectors.shape[1]))
    slots = [ParameterSlots(arrays, rank) for rank in range(len(vectors))]
    for rank, one in enumerate(slots):
        publish(one, vectors[rank], version=10 + rank)
    return slots


def publish(slots: ParameterSlots, vector: npt.NDArray[np.float32], version: int) -> None:
    slots.write(
        lambda slot: slots.payload[slot].copy_(torch.from_numpy(vector)),
        incarnation=0,
        round_=0,
        version=version,
    )


def literal(vectors: npt.NDArray[np.float32], size: int) -> tuple[object, object, float]:
    wide = vectors[:, :size].astype(float)
    mean = wide.mean(0)
    to_mean = [float(np.linalg.norm(v - mean)) for v in wide]
    pairwise = [[float(np.linalg.norm(a - b)) for b in wide] for a in wide]
    return to_mean, pairwise, float(np.linalg.norm(mean))


SIZES = [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 13]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("learners", range(1, 7))
def test_distances_are_numpys(learners: int, size: int) -> None:
    random = np.random.default_rng(learners * size)
    # Far from the origin and close together, as learners are; more behind it is not looked at.
    vectors = (30 + 0.1 * random.normal(size=(learners, size + 3))).astype(np.float32)
    vectors[:, size:] = 1e6 * random.normal(size=(learners, 3))
    measured = measure_distances(published(vectors), size)
    assert measured is not None
    to_mean, pairwise, norm = literal(vectors, size)
    assert np.allclose(measured.to_mean, to_mean, rtol=1e-4, atol=1e-4)
    assert np.allclose(measured.pairwise, pairwise, rtol=1e-4, atol=1e-4)
    assert measured.norm == pytest.approx(norm, rel=1e-5)
    assert measured.numbers == (1,) * learners
    assert measured.versions == tuple(range(10, 10 + learners))


@pytest.mark.parametrize("size", SIZES)
def test_cosines_are_numpys(size: int) -> None:
    vectors = (0.3 + np.random.default_rng(size).normal(size=(4, size))).astype(np.float32)
    assert mean_cosine(published(vectors), size) == pytest.approx(cosine_of(vectors), abs=1e-5)


@pytest.mark.parametrize("far", range(3))
def test_two_that_are_close_while_a_third_is_far(far: int) -> None:
    """Who stays behind is placed by its distance to one of those who went on together."""
    random = np.random.default_rng(1)
    vectors = np.stack([random.normal(size=CHUNK).astype(np.float32)] * 3)
    first, second = [rank for rank in range(3) if rank != far]
    vectors[first, 0] += 0.01
    vectors[far] += random.normal(size=CHUNK)
    measured = measure_distances(published(vectors), CHUNK)
    assert measured is not None
    assert measured.pairwise[first, second] == pytest.approx(0.01, rel=1e-2)


def test_identical_vectors_are_not_apart() -> None:
    vector = np.random.default_rng(1).normal(size=CHUNK + 5).astype(np.float32)
    measured = measure_distances(published(np.stack([vector] * 3)), CHUNK + 5)
    assert measured is not None
    assert measured.pairwise.max() <= 1e-6 * measured.norm
    assert measured.to_mean.max() <= 1e-6 * measured.norm


class Busy(ParameterSlots):
    """Slots whose writer comes round whenever somebody has looked."""

    times: int
    vector: npt.NDArray[np.float32]

    def unchanged(self, read: object) -> bool:
        if self.times:
            self.times -= 1
            for _ in range(2):
                publish(self, self.vector, version=0)
        return super().unchanged(read)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("times", "found"), [(0, True), (TRIES - 1, True), (TRIES, False), (100, False)]
)
def test_what_was_written_meanwhile_does_not_count(times: int, found: bool) -> None:
    slots = published(np.array([[0.0, 0.0], [6.0, 8.0]], np.float32))
    busy = slots[1]
    busy.__class__ = Busy
    assert isinstance(busy, Busy)
    busy.times, busy.vector = times, np.array([3.0, 4.0], np.float32)
    measured = measure_distances(slots, 2)
    assert (measured is not None) == found
    if measured is not None:
        assert measured.pairwise[0, 1] == (5.0 if times else 10.0)


def test_vectors_of_a_writer_at_work_are_whole_or_nothing() -> None:
    """A thread publishes constant vectors; a mixture of two would lie somewhere else."""
    size = 4 * CHUNK
    slots = published(np.zeros((2, size), np.float32))
    over = threading.Event()

    def write() -> None:
        value = 0
        while not over.is_set():
            value += 1
            slots[1].write(
                lambda slot: slots[1].payload[slot].fill_(value),  # noqa: B023
                incarnation=0,
                round_=0,
                version=value,
            )

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[Measured] = []
    try:
        for _ in range(300):
            measured = measure_distances(slots, size)
            seen += [measured] if measured is not None else []
    finally:
        over.set()
        writer.join(10)
    values = np.array([m.versions[1] for m in seen if m.versions[1] != 11])
    apart = [m.pairwise[0, 1] for m in seen if m.versions[1] != 11]
    assert np.allclose(apart, values * math.sqrt(size), rtol=1e-4)
    measured = measure_distances(slots, size)
    assert measured is not None, "in peace again"


# The target


class Run:
    """A monitor over a run layout in which only the test works."""

    def __init__(self, folder: RunFolder, **gossip: object) -> None:
        config = from_dict(
            {
                "environment": {"num_envs": 4},
                "gossip": {"certificate": False, **gossip},
                "resources": {"learners": 2, "simulator_workers": 2, "device": "cpu"},
            }
        )
        plan = make_plan(config, plain_machine(range(4), 0, 2**20))
        environment = EnvironmentSpec(
            "ALE/Pong-v5", (4,), "float32", DiscreteActions(2), ("l", "r"), 4, True, "classic"
        )
        sketch = ModelSketch("mlp", (), {"parameters": 3})
        graph = make_topology(plan.config.gossip.topology, 2)
        self.run_layout = RunLayout(plan, graph, environment, sketch, folder.logs, 1)
        self.monitor = ConsensusMonitor(self.run_layout, None)

    def measure(self, distance: float, versions: tuple[int, int] = (5, 5)) -> bool:
        """Put the learners `distance` apart from their mean; returns whether gossip is wanted."""
        for rank, sign in enumerate((-1.0, 1.0)):
            vector = np.array([1.0, sign * distance, 2.0], np.float32)
            publish(ParameterSlots(self.run_layout.arrays, rank), vector, versions[rank])
        self.monitor.measure(0.0, 0)
        return self.run_layout.control.gossip_enabled


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder.create(tmp_path, "", "Pong", "test", 1, datetime(2026, 1, 1))
    yield folder
    folder.close()


def test_gossip_is_wanted_only_outside_the_target(folder: RunFolder) -> None:
    run = Run(folder, target_ball=2.0)
    assert run.run_layout.control.gossip_enabled, "before anything is known"
    wanted = [run.measure(distance) for distance in (3.0, 2.5, 2.0, 1.0, 0.0, 2.25, 1.75)]
    assert wanted == [True, True, False, False, False, True, False]
    assert run.monitor.reading.rms == 1.75


def test_without_a_target_gossip_is_always_wanted(folder: RunFolder) -> None:
    run = Run(folder)
    assert all(run.measure(distance) for distance in (3.0, 0.0))


def test_what_is_not_whole_changes_nothing(folder: RunFolder) -> None:
    run = Run(folder, target_ball=2.0)
    publish(ParameterSlots(run.run_layout.arrays, 0), np.zeros(3, np.float32), 1)
    run.monitor.measure(0.0, 0)
    assert run.run_layout.control.gossip_enabled
    assert run.monitor.reading.rms is None
    assert not run.measure(0.0)


def test_learners_that_are_one_are_compared_at_the_same_step(folder: RunFolder) -> None:
    run = Run(folder, method="allreduce")
    run.measure(1.0, versions=(8, 16))
    assert run.monitor.reading.rms is None
    run.measure(0.0, versions=(16, 16))
    assert run.monitor.reading.rms == 0.0
