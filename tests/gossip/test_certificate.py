"""The certificate is never exceeded, whatever is delayed, dropped, dead or born again."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galamp.core.config import GossipConfig
from galamp.gossip.consensus.certificate import EVICTED_AT_ONCE, Certificate
from galamp.gossip.consensus.distances import DistanceMeter, distances_between
from galamp.gossip.consensus.radius import mixing_matrix, radius_per_update
from galamp.gossip.consensus.theoretical_radius import TheoreticalRadius
from galamp.gossip.exchange import Exchange, exchange_specs
from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.transport.parameter_slots import ParameterSlots
from galamp.gossip.transport.publication import Publication, Source
from galamp.gossip.transport.publication_ring import PublicationRing
from galamp.gossip.vectors import norm_of
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from galamp.storage.gossip_log import GOSSIP, GossipLog, Start
from galamp.telemetry import consensus
from galamp.telemetry.consensus import History
from galamp.tools.audit.audit import audit
from tests.support.engine import also
from tests.support.literal import literal_bounds

SIZE = 5
"""Parameters of a vector here."""

NAMES = sorted(TOPOLOGIES)
ROUNDING = 1e-5
"""Allowance for float32: vectors here are of length 10 at most."""


class World:
    """Learners that really publish, mix, die and come back, in one process."""

    def __init__(self, topology: Topology, folder: Path, config: GossipConfig) -> None:
        self.topology, self.config = topology, config
        n = topology.size
        specs = ControlBlock.specs(n) + StatusBoard.specs(n, 1)
        self.arrays = SharedArrays.create(
            specs + exchange_specs(config, topology, {"parameters": SIZE})
        )
        self.control = ControlBlock(self.arrays)
        self.control.prepare()
        self.vectors = [torch.zeros(SIZE) for _ in range(n)]
        self.wakeups = [Wakeup() for _ in range(n)]
        self.learners = [self.born(rank) for rank in range(n)]
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.told: list[str] = []
        log = GossipLog(folder / "gossip.jsonl", self.told.append)
        self.history = History(
            self.arrays, topology, log, self.told.append, with_radius=config.has_radius
        )
        zeros = ((0.0,) * n,) * n
        self.history.start(Start(1, n, "any", config.synchronous, 0.0, zeros))
        self.slots = [ParameterSlots(self.arrays, rank) for rank in range(n)]
        self.meter = DistanceMeter(self.slots, SIZE)

    def born(self, rank: int) -> Exchange:
        self.control.set_alive(rank, True)
        vector = self.vectors[rank]
        exchange = Exchange(
            self.arrays,
            rank,
            self.topology,
            self.config,
            state={"parameters": vector},
            gradient=torch.zeros(SIZE),
            seed=1,
            wakeups=self.wakeups,
            row=StatusBoard(self.arrays, self.topology.size).learner(rank),
            idle=lambda: None,
        )
        exchange.resume_from(0, 0)
        return exchange

    def act(self, kind: str, rank: int, direction: int, length: float) -> None:
        """Let something happen; what happens to the dead is nothing."""
        alive = self.control.alive(rank)
        if kind == "turn" and alive:
            self.vectors[rank][direction] += length
            self.learners[rank].turn(1)
        elif kind == "die":
            self.control.set_alive(rank, False)
        elif kind == "come back" and not alive:
            self.control.set_incarnation(rank, self.control.incarnation(rank) + 1)
            self.vectors[rank] = self.vectors[direction % self.topology.size].clone()
            self.learners[rank] = self.born(rank)
        elif kind == "follow":
            self.history.follow()

    def check(self) -> bool:
        """Measure; fails where a distance exceeds its bound; returns whether there was a bound."""
        measured = self.meter.distances()
        if measured is None:
            return False
        bounds = self.history.measured(measured, 0.0, 0)
        if bounds is None:
            self.history.rebase_unknown(*self.meter.recent())
            return False
        assert (measured.pairwise <= bounds.pairwise + ROUNDING).all()
        assert (measured.to_mean <= bounds.to_mean + ROUNDING).all()
        return True


@pytest.fixture(autouse=True, scope="module")
def _patience() -> Iterator[None]:
    """However busy the machine is, what was published is caught up with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consensus, "CATCH_UP_S", 60.0)
        yield


ACTIONS = st.tuples(
    st.sampled_from(["turn"] * 20 + ["die", "come back", "come back", "follow", "check", "check"]),
    st.integers(0, 5),
    st.integers(0, SIZE - 1),
    st.sampled_from([1.0, -1.0, 0.1, 0.0, -0.01]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(NAMES),
    st.integers(2, 6),
    st.sampled_from(["auto", "uniform"]),
    st.integers(1, 3),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([None, None, 1, 3]),
    st.sampled_from([None, None, 0.3]),
    st.sampled_from([(0.0, 1.0), (0.9, 0.7), (0.5, 1.5)]),
    st.lists(ACTIONS, max_size=120),
)
def test_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    size: int,
    weights: str,
    every: int,
    probability: float,
    all_every: int | None,
    floor: float | None,
    outer: tuple[float, float],
    actions: list[tuple[str, int, int, float]],
) -> None:
    weights = "auto" if name.startswith("base-") else weights
    graph = make_topology(name, size, weights, 3, all_every)
    config = GossipConfig(
        gossip_every=every,
        gossip_probability=probability,
        global_average_every=all_every,
        ball_floor=floor,
        outer_momentum=outer[0],
        outer_lr=outer[1],
        max_staleness=None,
    )
    world = World(graph, tmp_path_factory.mktemp("world"), config)
    for kind, rank, direction, length in actions:
        if kind == "check":
            world.check()
        else:
            world.act(kind, rank % size, direction, length)
    world.check()
    world.check()
    published = all(one.published for one in world.slots)
    assert world.check() == published, "after two measurements every place is known again"
    world.history.follow()
    found = audit(world.folder)
    assert found.passed, "the record proves it, too"
    assert not world.told


def test_when_nothing_is_known_all_begins_anew(tmp_path: Path) -> None:
    world = World(make_topology("ring", 2), tmp_path, GossipConfig())
    for _ in range(3):
        world.act("turn", 0, 0, 1.0)
        world.act("turn", 1, 1, 1.0)
    assert world.check()
    for rank in (0, 1):
        world.act("die", rank, 0, 0.0)
        world.act("come back", rank, rank, 0.0)
        world.act("turn", rank, 2, 1.0)
    assert not world.check(), "two vectors from nowhere"
    known = []
    for _ in range(5):
        world.act("turn", 0, 0, 1.0)
        world.act("turn", 1, 1, 1.0)
        known.append(world.check())
    assert all(known), "what is being mixed is measured, too"
    kinds = [json.loads(line)["kind"] for line in (tmp_path / GOSSIP).read_text().splitlines()]
    assert kinds.count("lost") == 2
    assert kinds.count("rebase") >= 2
    found = audit(tmp_path)
    assert found.passed
    assert found.certified == 1 + sum(known)


@pytest.mark.parametrize("most", [consensus.MAX_LINES, 10])
def test_a_disk_that_refuses_leaves_at_most_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(consensus, "MAX_LINES", most)
    world = World(make_topology("ring", 2), tmp_path, GossipConfig())

    def run_turns() -> None:
        for _ in range(20):
            world.act("turn", 0, 0, 1.0)
            world.act("turn", 1, 1, 1.0)
            world.history.follow()

    run_turns()
    assert world.check()
    with monkeypatch.context() as full:
        full.setattr(GossipLog, "append", lambda self, entries: False)
        run_turns()
    run_turns()
    world.check()
    run_turns()
    assert world.check()
    text = (tmp_path / GOSSIP).read_text()
    assert ('"lost"' in text) == (most == 10), "what fits into memory is written later"
    found = audit(tmp_path)
    assert found.passed
    assert found.certified >= 2


@pytest.mark.parametrize("way", ["removed", "emptied", "moved"])
def test_a_record_that_is_taken_away_begins_again_with_its_start(tmp_path: Path, way: str) -> None:
    """What is mixed next was published before: it is lost, and located by measurement."""
    world, record = World(make_topology("ring", 2), tmp_path, GossipConfig()), tmp_path / GOSSIP

    def run_turns() -> None:
        for _ in range(20):
            world.act("turn", 0, 0, 1.0)
            world.act("turn", 1, 1, 1.0)
            world.history.follow()

    run_turns()
    for _ in range(2):
        assert world.check()
        if way == "emptied":
            os.truncate(record, 0)
        elif way == "removed":
            record.unlink()
        else:
            record.rename(tmp_path / "elsewhere")
        run_turns()
        assert record.read_text().startswith('{"kind":"start"')
        found = audit(tmp_path)
        assert found.passed, found.faults
        world.check()
        run_turns()
        assert world.check()
        found = audit(tmp_path)
        assert found.passed, found.faults
        assert (found.starts, found.certified >= 1, found.lost >= 2) == (1, True, True)
    (line,) = world.told
    assert line.startswith("gossip.jsonl was removed, moved or emptied: it begins again")


def test_a_lone_update_reaches_its_bound(tmp_path: Path) -> None:
    """Where the bound is the truth, a bound too small by any part would show."""
    world = World(make_topology("ring", 3), tmp_path, GossipConfig())
    for rank in range(3):
        world.act("turn", rank, 0, 0.0)
    world.act("turn", 1, 0, 1.0)
    measured = world.meter.distances()
    assert measured is not None
    bounds = world.history.measured(measured, 0.0, 0)
    assert bounds is not None
    assert bounds.pairwise[0, 1] == pytest.approx(measured.pairwise[0, 1], rel=1e-4)


def publications(seed: int, graph: Topology, rounds: int) -> Iterator[Publication]:
    """Random asynchronous gossip: everyone mixes whatever it last heard of, or nothing."""
    random = np.random.default_rng(seed)
    numbers = [0] * graph.size
    for _ in range(rounds * graph.size):
        learner = int(random.integers(graph.size))
        peers = [p for p in graph.in_peers(learner, numbers[learner]) if random.random() < 0.7]
        mixed = tuple(
            Source(peer, int(max(0, numbers[peer] - random.integers(3))), 1 / (1 + len(peers)))
            for peer in peers
        )
        numbers[learner] += 1
        own = 1.0 - sum(source.weight for source in mixed)
        length = float(random.choice([0.01, 0.1, 1.0]))
        yield Publication(learner, numbers[learner], 0, 0, 0, length, own, mixed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [EVICTED_AT_ONCE, also(2 * EVICTED_AT_ONCE), 4096])
def test_a_window_with_a_rest_is_no_less_than_the_whole_history(name: str, window: int) -> None:
    graph = make_topology(name, 4)
    certificate = Certificate(4, window=window)
    certificate.start(np.zeros((4, 4)))
    history: list[Publication] = []
    for publication in publications(7, graph, 70):
        history.append(publication)
        certificate.publish(publication)
    newest = [max(p.number for p in history if p.learner == learner) for learner in range(4)]
    bounds = certificate.bounds(newest)
    exact = literal_bounds(history, newest)
    assert bounds is not None
    if window == 4096:
        assert np.allclose(bounds.pairwise, exact)
    else:
        assert (bounds.pairwise >= exact - 1e-9).all()
        # Without gossip the two are the same; with it, what is old has become small.
        assert bounds.pairwise.max() <= 2.0 * exact.max() + 1e-9


def test_memory_stays_and_the_bound_settles() -> None:
    """A bound that grew with the length of the run would be none."""
    graph = make_topology("ring", 4)
    certificate = Certificate(4)
    certificate.start(np.zeros((4, 4)))
    sizes, greatest = set(), []
    for round_ in range(1, 2001):
        for learner in range(4):
            [peer] = graph.in_peers(learner, round_)
            mixed = (Source(peer, round_ - 1, 0.5),) if round_ > 1 else ()
            certificate.publish(
                Publication(learner, round_, 0, 0, 0, 1.0, 1 - 0.5 * len(mixed), mixed)
            )
        if round_ % 500 == 0:
            bounds = certificate.bounds([round_] * 4)
            assert bounds is not None
            greatest.append(bounds.pairwise.max())
            arrays = [v for v in vars(certificate).values() if isinstance(v, np.ndarray)]
            sizes.add(sum(a.nbytes for a in arrays))
    assert len(sizes) == 1
    assert greatest[-1] == pytest.approx(greatest[0], rel=1e-6)


def test_what_is_too_old_to_be_known_is_refused() -> None:
    certificate = Certificate(2, kept=4)
    certificate.start(np.zeros((2, 2)))
    for number in range(1, 8):
        certificate.publish(Publication(0, number, 0, 0, 0, 1.0, 1.0, ()))
    assert not certificate.is_kept(0, 3)
    with pytest.raises(KeyError):
        certificate.publish(Publication(1, 1, 0, 0, 0, 1.0, 0.5, (Source(0, 3, 0.5),)))


def test_lost_vectors_are_unknown_until_they_are_measured() -> None:
    certificate = Certificate(2)
    certificate.start(np.array([[0.0, 2.0], [2.0, 0.0]]))
    start = certificate.bounds([0, 0])
    assert start is not None
    assert start.pairwise[0, 1] == 2.0
    certificate.add_unknown(1, 5)
    lost = certificate.bounds([0, 5])
    assert lost is not None
    assert math.isinf(lost.pairwise[0, 1])
    certificate.publish(Publication(1, 6, 0, 0, 0, 1.0, 1.0, ()))
    assert not certificate.is_known(1, 6)
    certificate.rebase(1, 6, 0, 0, 3.0)
    certificate.publish(Publication(1, 7, 0, 0, 0, 1.0, 0.5, (Source(0, 0, 0.5),)))
    found = certificate.bounds([0, 7])
    assert found is not None
    assert found.pairwise[0, 1] == pytest.approx(0.5 * 3.0 + 1.0)


def lock_step_rounds(world: World, rounds: int, seed: int) -> Iterator[Any]:
    """Go through lock-step rounds; yields the vectors before and after each mix, float64."""
    random = np.random.default_rng(seed)
    gossipers = [learner._parameters for learner in world.learners]
    for round_ in range(rounds):
        for vector, gossiper in zip(world.vectors, gossipers, strict=True):
            vector += torch.from_numpy(random.normal(size=SIZE).astype(np.float32))
            gossiper.publish(round_)
        before = np.stack([vector.numpy().astype(float) for vector in world.vectors])
        for gossiper in gossipers:
            gossiper.mix()
        yield round_, before, np.stack([v.numpy().astype(float) for v in world.vectors])


@pytest.mark.parametrize("size", [2, 3, also(4), also(6), 8])
@pytest.mark.parametrize("name", NAMES)
def test_lock_step_is_the_mixing_matrix(tmp_path: Path, name: str, size: int) -> None:
    graph = make_topology(name, size, seed=5)
    world = World(graph, tmp_path, GossipConfig(sync=True))
    for round_, before, after in lock_step_rounds(world, 12, seed=size):
        assert np.allclose(after, mixing_matrix(graph, round_) @ before, atol=1e-5)
        if graph.doubly_stochastic:
            assert np.allclose(after.mean(0), before.mean(0), atol=1e-5), "the mean is kept"
    assert world.check()


@pytest.mark.parametrize("name", ["ring", "torus", "one-peer-exponential", "complete", "star"])
def test_lock_step_stays_in_the_ball_of_theory(tmp_path: Path, name: str) -> None:
    graph = make_topology(name, 6)
    world = World(graph, tmp_path, GossipConfig(sync=True))
    factor = radius_per_update(graph)
    assert factor is not None
    greatest, resume_point = 0.0, np.zeros((6, SIZE))
    closed = []
    for _, before, after in lock_step_rounds(world, 40, seed=1):
        updates = before - resume_point
        closed.append(float(np.sqrt(np.mean(np.square(updates).sum(1)))))
        greatest = max(greatest, float(np.linalg.norm(updates - updates.mean(0))))
        apart = float(np.linalg.norm(after - after.mean(0)))
        assert apart <= factor * greatest + 1e-5
        resume_point = after
    assert world.check()
    assert world.history.radius is not None
    assert world.history.radius == pytest.approx((factor + 1) * max(closed[:-1]), rel=1e-4)


def test_rounds_done_anew_in_lock_step_are_not_added_to() -> None:
    theory = TheoreticalRadius(make_topology("ring", 2))

    def update(learner: int, round_: int, incarnation: int) -> Publication:
        return Publication(learner, 2 * round_ + incarnation, round_, 0, incarnation, 1.0, 1.0, ())

    for round_, learner in itertools.product(range(6), range(2)):
        theory.receive(update(learner, round_, 0))
    theory.receive(update(0, 6, 0))
    before = theory.radius
    for learner in range(2):
        theory.lose(update(learner, 4, 1))
    for round_, learner in itertools.product(range(5, 10), range(2)):
        theory.receive(update(learner, round_, 1))
    assert theory.radius == before is not None


@pytest.mark.parametrize("size", [3, 1024, 2**21 + 5])
@pytest.mark.parametrize("kind", ["constant", "normal", "heavy"])
def test_norms_are_those_of_float64(size: int, kind: str) -> None:
    """A certificate made of norms that are too small would be none."""
    random = np.random.default_rng(1)
    values = {
        "constant": np.full(size, 0.006),
        "normal": random.normal(size=size),
        "heavy": random.standard_cauchy(size=size).clip(-1e4, 1e4),
    }[kind].astype(np.float32)
    exact = float(np.linalg.norm(values.astype(np.float64)))
    assert norm_of(torch.from_numpy(values)) == pytest.approx(exact, rel=3e-6)
    far = np.stack([values, np.zeros_like(values), -values])
    pairwise, norm = distances_between(far)
    assert pairwise[0] == pytest.approx([0.0, exact, 2 * exact], rel=1e-9)
    assert norm == pytest.approx(0.0, abs=1e-6)


def test_radius_where_it_is_known() -> None:
    for size in (3, 4, 8):
        beta = math.cos(math.pi / size)
        assert radius_per_update(make_topology("ring", size)) == pytest.approx(beta / (1 - beta))
    assert radius_per_update(make_topology("complete", 5)) == pytest.approx(0, abs=1e-9)
    # Rounds of one-peer exponential pairs: after log2(8) of them nothing is left of a difference.
    assert radius_per_update(make_topology("one-peer-exponential", 8)) == pytest.approx(2.0)
    assert radius_per_update(make_topology("none", 4)) is None
    assert radius_per_update(make_topology("random-pairs", 4)) is None
    assert radius_per_update(make_topology("star", 4, "uniform")) is None


TURNS = 1500
"""More than the journal of a learner holds."""


def test_a_journal_that_is_too_slowly_read_says_what_is_lost(tmp_path: Path) -> None:
    graph = make_topology("ring", 2)
    world = World(graph, tmp_path, GossipConfig(max_staleness=None))
    publication_ring = PublicationRing(world.arrays, 0)
    for _ in range(TURNS):
        world.act("turn", 0, 0, 1.0)
    entries, lost = publication_ring.drain()
    publications_ = [publication for _, publication in entries]
    assert lost + len(publications_) == TURNS
    assert lost > 0
    assert [p.number for p in publications_] == list(range(lost + 1, TURNS + 1))
    assert all(p.length == pytest.approx(1.0, rel=1e-4) for p in publications_)
    world.act("turn", 1, 0, 1.0)
    for _ in range(TURNS):
        world.act("turn", 0, 0, 1.0)
    assert not world.check(), "learner 0 is somewhere"
    assert "faster than it can be certified" in world.told[0]
    assert len(world.told) == 1
    assert world.check(), "and now measured"


def test_a_gap_in_one_journal_only_is_got_over(tmp_path: Path) -> None:
    """What one learner mixed lies in the other's gap, again and again: nothing to wait for."""
    world = World(make_topology("ring", 2), tmp_path, GossipConfig())
    for turn in range(3000):
        if turn == 800:
            world.history._drain(1)  # as where time was up before the other one's were fetched
        world.act("turn", turn % 2, 0, 0.1)
    world.check()
    for turn in range(40):
        world.history.follow()
        world.act("turn", turn % 2, 0, 0.1)
        known = world.check()
    assert known, "what was measured is known again"
    assert '"lost"' in (tmp_path / GOSSIP).read_text()
    assert audit(tmp_path).passed
