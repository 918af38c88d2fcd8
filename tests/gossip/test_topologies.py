"""Gossip graphs: the contract for every registered one, and what each is known for."""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.from_file import FromFile
from galamp.gossip.topologies.metropolis import Metropolis
from galamp.gossip.topologies.random_pairs import unconnected
from tests.contracts.topology import (
    SIZES,
    TopologyContract,
    everyone_reaches_everyone,
    mixing_matrix,
    sent,
)
from tests.support.loops import each

Matrix = NDArray[np.float64]


@pytest.fixture(params=sorted(TOPOLOGIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestRegistered(TopologyContract):
    """Whatever is in the registry, under its name."""

    build: Callable[[int], Topology]

    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.build = lambda size: make_topology(name, size, seed=7)
        self.connected = name != "none"
        self.edges_are_drawn = name == "random-pairs"

    def make(self, size: int) -> Topology:
        return self.build(size)


@each("nodes", [1, 2, 3, 4, 8])
@each("lanes", [1, 2, 4])
def test_hierarchical_keeps_to_its_machine_but_for_every_kth_round(nodes: int, lanes: int) -> None:
    graph = make_topology("hierarchical", nodes * lanes, nodes=nodes, nodes_every=3)
    reached = set[int]()
    for round_ in range(2 * graph.period()):
        pairs = sent(graph, [round_])
        assert len(pairs) == (nodes * lanes if nodes * lanes > 1 else 0), "one message each"
        crosses = {sender // lanes != receiver // lanes for sender, receiver in pairs}
        between = nodes > 1 and (lanes == 1 or round_ % 3 == 2)
        assert crosses <= {between}
        for sender, receiver in pairs if between else ():
            assert sender % lanes == receiver % lanes
            reached.add((receiver // lanes - sender // lanes) % nodes)
    powers = {2**t % nodes for t in range((nodes - 1).bit_length())}
    assert reached == powers


def test_hierarchical_averages_machines_exactly_and_mixes_faster_than_one_ring() -> None:
    of_one_lane = make_topology("hierarchical", 8, nodes=8)
    product = np.linalg.multi_dot([mixing_matrix(of_one_lane, k) for k in range(3)])
    assert np.allclose(product, 1 / 8)
    left = {}
    for name in ("hierarchical", "ring"):
        graph, product = make_topology(name, 16, nodes=4), np.eye(16)
        for round_ in range(24):
            product = mixing_matrix(graph, round_) @ product
        left[name] = np.linalg.norm(product - 1 / 16, 2)
    assert left["hierarchical"] < left["ring"] / 10


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_choices_of_a_hierarchical_graph_are_all_its_in_peers(nodes: int, lanes: int) -> None:
    graph = make_topology("hierarchical", nodes * lanes, nodes=nodes)
    for rank in range(graph.size):
        ever = {p for k in range(graph.period() or 1) for p in graph.in_peers(rank, k)}
        for round_ in range(2 * (graph.period() or 1)):
            found = graph.choices(rank, round_, {})
            assert set(found) == (ever if nodes > 1 else set())
            assert len(found) == len(set(found)), "each once"


def test_a_vector_of_another_machine_comes_first_but_once_in_k_rounds() -> None:
    """Lane 1 of machine 2 of four: 1 and 3 send to it, one exchange after the other, and lane 0."""
    graph = make_topology("hierarchical", 8, nodes=4, nodes_every=3)
    first, second = graph.in_peers(5, 2), graph.in_peers(5, 5)
    assert (first, second) == ((3,), (1,))
    assert [graph.choices(5, k, {}) for k in (0, 2, 3, 5, 6)] == [
        (3, 1, 4), (3, 1, 4), (1, 3, 4), (1, 3, 4), (3, 1, 4)
    ]  # fmt: skip
    assert [graph.choices(5, k, {1: 5})[0] for k in (6, 7, 8)] == [4, 4, 3]
    assert graph.choices(5, 6, {4: 5})[0] == 3, "what came from its own machine does not count"


def test_choices_are_those_of_the_graph_also_with_weights_of_its_own_or_global_rounds() -> None:
    graph = make_topology("hierarchical", 4, nodes=2)
    weighed = make_topology("hierarchical", 4, "metropolis", nodes=2)
    joined = make_topology("hierarchical", 4, global_average_every=3, nodes=2)
    for round_ in range(12):
        expected = graph.choices(1, round_, {3: 2})
        assert weighed.choices(1, round_, {3: 2}) == expected
        assert joined.choices(1, round_, {3: 2}) == (expected if (round_ + 1) % 3 else ())


def test_other_graphs_leave_no_choice() -> None:
    for name in ("ring", "complete", "exponential", "one-peer-exponential", "random-pairs"):
        graph = make_topology(name, 4)
        assert not any(graph.choices(0, k, {}) for k in range(8))


class TestHierarchical(TopologyContract):
    """On as many machines as there can be of two learners, or else of one."""

    edges_are_drawn = False

    def make(self, size: int) -> Topology:
        return make_topology("hierarchical", size, nodes=size if size % 2 else size // 2)


class TestUniformStar(TopologyContract):
    """A graph that is not doubly stochastic."""

    def make(self, size: int) -> Topology:
        return make_topology("star", size, "uniform")


class TestMetropolis(TestRegistered):
    """Metropolis weights on a graph that changes and on one that stays."""

    @pytest.fixture(params=["random-pairs", "torus"])
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def make(self, size: int) -> Topology:
        return Metropolis(super().make(size))


def write_digraph(path: Path, size: int, *, weights: bool) -> None:
    """A directed ring, in which every third learner also sends to two further ones."""
    matrix = np.eye(size) if weights else np.zeros((size, size))
    for sender in range(size):
        for step in (1, 2, 5)[: 3 if sender % 3 == 0 else 1]:
            if step < size:
                matrix[(sender + step) % size, sender] = 1 + (weights and sender % 4)
    if weights:
        matrix /= matrix.sum(axis=1, keepdims=True)
    np.savetxt(path, matrix, fmt="%.9f" if weights else "%d")


@pytest.mark.parametrize("weights", [False, True])
class TestFiles(TopologyContract):
    """Directed graphs from files of both forms."""

    build: Callable[[int], Topology]
    large = (300,)

    @pytest.fixture(autouse=True)
    def _written(self, tmp_path: Path, weights: bool) -> None:
        def build(size: int) -> Topology:
            path = tmp_path / f"{size}.txt"
            if not path.exists():
                write_digraph(path, size, weights=weights)
            return make_topology(f"file:{path}", size)

        self.build = build

    def make(self, size: int) -> Topology:
        return self.build(size)


# What the graphs are known for


def beta(matrix: Matrix) -> float:
    """Second largest singular value."""
    return float(np.linalg.svd(matrix, compute_uv=False)[1])


def beta_of(name: str, size: int) -> float:
    return beta(mixing_matrix(make_topology(name, size), 0))


def test_a_ring_goes_upwards() -> None:
    assert make_topology("ring", 4).edges() == ((0, 1), (1, 2), (2, 3), (3, 0))


@each("size", [2, 3, 4, 8, 33, 64])
def test_beta_of_the_directed_ring(size: int) -> None:
    assert beta_of("ring", size) == pytest.approx(math.cos(math.pi / size), abs=1e-7)


@each("size", [3, 4, 5, 8, 33, 64])
def test_beta_of_the_bidirectional_ring(size: int) -> None:
    known = max(abs(1 + 2 * math.cos(2 * math.pi * k / size)) / 3 for k in range(1, size))
    assert beta_of("bidirectional-ring", size) == pytest.approx(known, abs=1e-7)


def test_a_bidirectional_ring_of_two_has_one_peer_each() -> None:
    assert make_topology("bidirectional-ring", 2).edges() == ((0, 1), (1, 0))


@each("size", [2, 3, 8, 33])
def test_the_complete_graph_averages_at_once(size: int) -> None:
    assert np.allclose(mixing_matrix(make_topology("complete", size), 0), 1 / size)
    assert beta_of("complete", size) == pytest.approx(0, abs=1e-7)


@each("size", [4, 6, 8, 10, 16, 30, 64, 100])
def test_beta_of_the_static_exponential_graph(size: int) -> None:
    peers = len(make_topology("exponential", size).out_peers(0, 0))
    assert peers == math.ceil(math.log2(size))
    assert beta_of("exponential", size) == pytest.approx((peers - 1) / (peers + 1), abs=1e-7)


def test_the_exponential_graph_sends_to_powers_of_two() -> None:
    graph = make_topology("exponential", 10)
    assert graph.out_peers(3, 0) == (1, 4, 5, 7)
    assert graph.in_peers(3, 0) == (1, 2, 5, 9)


SHAPES = {1: (1, 1), 4: (2, 2), 7: (1, 7), 8: (2, 4), 9: (3, 3), 12: (3, 4), 30: (5, 6), 64: (8, 8)}


def along(length: int, k: int) -> tuple[float, int]:
    """Of one side of a torus: the sum over neighbours for wave number k, and how many they are."""
    ways = {1 % length, -1 % length} - {0}
    return sum(math.cos(2 * math.pi * k * way / length) for way in ways), len(ways)


@each("size", [4, 7, 8, 9, 12, 30, 64])
def test_beta_of_the_torus(size: int) -> None:
    rows, columns = SHAPES[size]
    sums = []
    for wave in range(1, size):
        up, ups = along(rows, wave // columns)
        aside, asides = along(columns, wave % columns)
        sums.append(abs(1 + up + aside) / (1 + ups + asides))
    assert beta_of("torus", size) == pytest.approx(max(sums), abs=1e-7)


def test_a_torus_is_as_square_as_can_be() -> None:
    assert make_topology("torus", 12).out_peers(0, 0) == (1, 3, 4, 8)
    assert make_topology("torus", 8).out_peers(0, 0) == (1, 3, 4)
    for prime in (2, 7, 13):
        ring = make_topology("bidirectional-ring", prime)
        assert make_topology("torus", prime).edges() == ring.edges()


def over_rounds(graph: Topology, first: int, count: int) -> Matrix:
    """The mixing matrices of some rounds, multiplied."""
    product = np.eye(graph.size)
    for k in range(first, first + count):
        product = mixing_matrix(graph, k) @ product
    return product


@each("size", [2, 4, 8, 32, 64])
def test_one_peer_exponential_averages_exactly_for_powers_of_two(size: int) -> None:
    graph = make_topology("one-peer-exponential", size)
    count = int(math.log2(size))
    assert graph.period() == count
    for first in (0, 1, 7):
        assert np.array_equal(over_rounds(graph, first, count), np.full((size, size), 1 / size))
        assert not np.allclose(over_rounds(graph, first, count - 1), 1 / size)


@each("size", [3, 6, 12])
def test_one_peer_exponential_does_not_average_exactly_otherwise(size: int) -> None:
    graph = make_topology("one-peer-exponential", size)
    assert graph.period() == math.ceil(math.log2(size))
    assert not np.allclose(over_rounds(graph, 0, graph.horizon()), 1 / size)


def test_one_peer_exponential_doubles_its_step() -> None:
    graph = make_topology("one-peer-exponential", 6)
    assert [graph.out_peers(4, k) for k in range(4)] == [(5,), (0,), (2,), (5,)]


def couples(graph: Topology, round_: int) -> list[tuple[int, int]]:
    """The pairs of a round, after making sure that there are only pairs."""
    edges = sent(graph, [round_])
    assert edges == {(j, i) for i, j in edges}
    pairs = sorted((i, j) for i, j in edges if i < j)
    paired = [rank for pair in pairs for rank in pair]
    assert len(paired) == len(set(paired)) == graph.size - graph.size % 2
    return pairs


def test_bipartite_exponential_as_published() -> None:
    graph = make_topology("bipartite-exponential", 8)
    assert [graph.out_peers(0, k) for k in range(4)] == [(1,), (3,), (5,), (1,)]
    assert couples(graph, 1) == [(0, 3), (1, 6), (2, 5), (4, 7)]


def test_bipartite_exponential_of_five_as_documented() -> None:
    graph = make_topology("bipartite-exponential", 5)
    assert [couples(graph, k) for k in range(6)] == [
        [(1, 2), (3, 4)],
        [(0, 4), (2, 3)],
        [(0, 4), (1, 3)],
        [(0, 1), (2, 4)],
        [(0, 1), (2, 3)],
        [(1, 4), (2, 3)],
    ]


@pytest.mark.parametrize("name", ["bipartite-exponential", "random-pairs"])
@each("size", [*SIZES, 6, 9, 63])
def test_everyone_is_in_a_pair_but_one_if_odd(name: str, size: int) -> None:
    graph = make_topology(name, size)
    for k in [*range(40), 10**9]:
        for pair in couples(graph, k):
            for rank in pair:
                assert graph.weights(rank, k) == (0.5, 0.5)


@each("size", [3, 5, 7, 21, 33])
def test_bipartite_exponential_leaves_everyone_out_in_turn(size: int) -> None:
    graph = make_topology("bipartite-exponential", size)
    for first in (0, size, 10**6 * size):
        rounds = range(first, first + size)
        idle = [r for k in rounds for r in range(size) if not graph.out_peers(r, k)]
        assert idle == list(range(size))


@each("size", [*range(2, 40), 65, 129, 257])
def test_bipartite_exponential_is_connected_from_every_round_on(size: int) -> None:
    graph = make_topology("bipartite-exponential", size)
    rounds = [sent(graph, [k]) for k in range(min(graph.period() or 1, 3 * size) + graph.horizon())]
    for start in range(0, len(rounds) - graph.horizon(), 1 + size // 10):
        assert everyone_reaches_everyone(size, set().union(*rounds[start:][: graph.horizon()]))


def test_bipartite_exponential_needs_few_edges_and_knows_them_for_odd_sizes() -> None:
    for size in (3, 5, 7, 9, 11, 21, 45, 63):
        graph = make_topology("bipartite-exponential", size)
        period = graph.period()
        assert period is not None
        assert set(graph.edges()) == sent(graph, range(period))
    assert len(make_topology("bipartite-exponential", 4095).edges()) < 50 * 4095


def test_random_pairs_differ_between_rounds_and_seeds() -> None:
    graph, other = (make_topology("random-pairs", 16, seed=seed) for seed in (1, 2))
    drawn = [couples(graph, k) for k in range(50)] + [couples(other, k) for k in range(50)]
    assert len({tuple(pairs) for pairs in drawn}) == 100


def test_random_pairs_stay_what_they_were() -> None:
    graph = make_topology("random-pairs", 6, seed=1)
    assert [couples(graph, k) for k in (0, 1, 10**9)] == [
        [(0, 5), (1, 3), (2, 4)],
        [(0, 5), (1, 2), (3, 4)],
        [(0, 4), (1, 3), (2, 5)],
    ]


@each("size", [4, 5, 6])
def test_random_pairs_are_equally_likely(size: int) -> None:
    graph, rounds = make_topology("random-pairs", size, seed=3), 3000
    met = np.zeros((size, size))
    for k in range(rounds):
        for i, j in couples(graph, k):
            met[i, j] += 1
    chance = 1 / (size if size % 2 else size - 1)
    deviation = math.sqrt(rounds * chance * (1 - chance))
    upper = met[np.triu_indices(size, 1)]
    assert np.abs(upper - rounds * chance).max() < 5 * deviation
    assert set(graph.edges()) == sent(graph, range(100))


def matchings(learners: frozenset[int]) -> list[frozenset[tuple[int, int]]]:
    """All ways to pair up an even number of learners."""
    if not learners:
        return [frozenset()]
    first = min(learners)
    return [
        rest | {(first, other)}
        for other in learners - {first}
        for rest in matchings(learners - {first, other})
    ]


@each("size", [3, 4, 5, 6])
def test_random_pairs_are_unconnected_as_rarely_as_promised(size: int) -> None:
    """Against counting: of all pairs of matchings, how many are not connected."""
    ghost = size + size % 2
    found = [{(i, j) for i, j in pairs if j < size} for pairs in matchings(frozenset(range(ghost)))]
    apart = sum(
        not everyone_reaches_everyone(size, {(b, a) for a, b in one | two} | one | two)
        for one in found
        for two in found
    )
    exact = apart / len(found) ** 2
    assert exact <= unconnected(size, 2) + 1e-12
    if size <= 4:
        assert exact == pytest.approx(unconnected(size, 2))


def test_random_pairs_know_their_horizon() -> None:
    sizes = (1, 2, 3, 4, 5, 6, 64, 4095, 4096)
    horizons = [make_topology("random-pairs", size).horizon() for size in sizes]
    assert horizons[:4] == [1, 1, 20, 20]
    for size, horizon in zip(sizes[2:], horizons[2:], strict=True):
        assert unconnected(size, horizon) < 1e-9 <= unconnected(size, horizon - 1)
    assert all(one >= other for one, other in pairwise(horizons[2:]))
    assert horizons[-1] == 5


@each("size", [3, 4, 16])
def test_a_star_has_metropolis_weights(size: int) -> None:
    star = make_topology("star", size)
    assert star.edges() == tuple(
        sorted([(0, r) for r in range(1, size)] + [(r, 0) for r in range(1, size)])
    )
    assert star.weights(0, 0) == pytest.approx((1 / size,) * size)
    assert star.weights(1, 0) == pytest.approx((1 - 1 / size, 1 / size))
    assert make_topology("star", size, "uniform").weights(1, 0) == (0.5, 0.5)


@each("size", SIZES)
def test_none_has_no_edges(size: int) -> None:
    assert make_topology("none", size).edges() == ()


class Alternating(Topology):
    """Pairs (0, 1) in even rounds, (1, 0) in odd ones."""

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        return (1 - rank,) if round_ % 2 == rank else ()

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        return (1 - rank,) if round_ % 2 != rank else ()

    def period(self) -> int:
        return 2


def test_edges_are_gathered_over_the_whole_period() -> None:
    assert Alternating(2).edges() == ((0, 1), (1, 0))


# Weights and names


def refusal(name: str, size: int, weights: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        make_topology(name, size, weights)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def test_metropolis_weights_may_be_asked_for() -> None:
    assert isinstance(make_topology("torus", 8, "metropolis"), Metropolis)
    assert not isinstance(make_topology("torus", 8), Metropolis)


def test_metropolis_weights_need_a_symmetric_graph() -> None:
    assert "--gossip-weights metropolis" in refusal("ring", 4, "metropolis")
    assert "--topology ring" in refusal("ring", 4, "metropolis")
    with pytest.raises(ValueError, match="symmetric"):
        Metropolis(make_topology("ring", 4))


def test_metropolis_weights_are_those_of_the_larger_degree(tmp_path: Path) -> None:
    """A path of four with a chord: degrees 1, 3, 2, 2."""
    path = tmp_path / "graph"
    path.write_text("0 1 0 0\n1 0 1 1\n0 1 0 1\n0 1 1 0\n")
    graph = make_topology(f"file:{path}", 4)
    expected = [
        [3 / 4, 1 / 4, 0, 0],
        [1 / 4, 1 / 4, 1 / 4, 1 / 4],
        [0, 1 / 4, 5 / 12, 1 / 3],
        [0, 1 / 4, 1 / 3, 5 / 12],
    ]
    assert np.allclose(mixing_matrix(graph, 0), expected)
    assert graph.doubly_stochastic
    uniform = make_topology(f"file:{path}", 4, "uniform")
    assert uniform.weights(0, 0) == (0.5, 0.5)
    assert not uniform.doubly_stochastic


def test_unknown_names_are_refused_with_a_proposal() -> None:
    assert "(did you mean torus?)" in refusal("tours", 4)
    message = refusal("ring", 4, "metroplis")
    assert message.startswith("--gossip-weights 'metroplis': expected one of auto, uniform")
    assert "did you mean metropolis" in message


# Files


@pytest.fixture
def graph_file(tmp_path: Path) -> Callable[[str | bytes], str]:
    def write(content: str | bytes) -> str:
        path = tmp_path / "graph.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"file:{path}"

    return write


Write = Callable[[str | bytes], str]


def test_rows_are_receivers_and_columns_senders(graph_file: Write) -> None:
    """0 receives from 1, 1 from 2, 2 from 0 and 1."""
    graph = make_topology(graph_file("0 1 0\n0 0 1\n1 1 0\n"), 3)
    assert graph.edges() == ((0, 2), (1, 0), (1, 2), (2, 1))
    assert graph.in_peers(2, 5) == (0, 1)
    assert graph.out_peers(2, 5) == (1,)
    assert graph.weights(2, 5) == pytest.approx((1 / 3,) * 3)
    assert not graph.symmetric
    assert not graph.doubly_stochastic


def test_a_file_may_bring_weights(graph_file: Write) -> None:
    name = graph_file("0.5 0.3 0.2\n0.2 0.5 0.3\n0.3 0.2 0.5\n")
    graph = make_topology(name, 3)
    assert graph.weights(1, 0) == pytest.approx((0.5, 0.2, 0.3))
    assert graph.doubly_stochastic
    assert graph.symmetric
    assert "has its own weights" in refusal(name, 3, "metropolis")
    assert make_topology(name, 3, "uniform").weights(1, 0) == pytest.approx((1 / 3,) * 3)


def test_rounded_weights_are_made_to_sum_to_one(graph_file: Write) -> None:
    graph = make_topology(graph_file("0.3333333 0.3333333 .3333333\n.1 .2 .7\n.25 .25 .5"), 3)
    assert math.fsum(graph.weights(0, 0)) == pytest.approx(1, abs=1e-15)
    assert not graph.doubly_stochastic


@pytest.mark.parametrize(
    "text",
    [
        "0 1 0\n0 0 1\n1 0 0\n",
        "1 1 0\n0 1 1\n1 0 1",
        "0,1,0,\n0,0,1,\n1,0,0,\n",
        "# a ring\r\n\r\n0, 1, 0 # learner 0\r\n0\t0\t1\r\n1 ,0 , 0\r\n\r\n",
        "\ufeff0 1.0 -0\n0e5 0 1\n1 0 0",
        "0 1 0\r0 0 1\r1 0 0",
    ],
)
def test_forms_of_a_ring(graph_file: Write, text: str) -> None:
    """A permutation is an adjacency, and so is what has ones on the diagonal."""
    graph = make_topology(graph_file(text), 3)
    assert graph.edges() == ((0, 2), (1, 0), (2, 1))
    assert graph.weights(0, 0) == (0.5, 0.5)
    assert graph.doubly_stochastic


@pytest.mark.parametrize("text", ["0", "1", "1.0\n", "0.9999999"])
def test_a_graph_of_one(graph_file: Write, text: str) -> None:
    graph = make_topology(graph_file(text), 1)
    assert graph.edges() == ()
    assert graph.weights(0, 0) == (1.0,)


RING = "0 1 0\n0 0 1\n1 0 0\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"0 1\n\xff\xfe 0", ", line 2: not UTF-8, expected a text file; save"),
        (b"", ": holds no numbers, expected one row per learner; write"),
        (b"# nothing\n\n  \n", ": holds no numbers, "),
        (b"0 1 0\n0 x 1\n1 0 0", ", line 2: number 2 is 'x', expected a number; separate"),
        (b"0;1\n1;0", ", line 1: number 1 is '0;1', expected a number"),
        (b"0 \x00\n1 0", ", line 1: number 2 is '\\x00', expected a number"),
        (b"#\n0 nan 0\n", ", line 2: number 2 is nan, expected a finite number of at least 0"),
        (b"0 1e999 0\n", ", line 1: number 2 is inf, expected a finite"),
        (b"0 -0.5 0\n", ", line 1: number 2 is -0.5, expected a finite"),
        (b"0,,1\n", ", line 1: nothing before a comma, expected a number; write 0"),
        (b",0,1\n", ", line 1: nothing before a comma"),
        (b"0 1 0\n\n0 0\n", ", line 3: 2 numbers, expected 3 as in line 1; write"),
        (b"0 1 0\n0 0 1\n", ", line 2: the last of 2 rows of 3 numbers, expected as many rows"),
        (b"0 1\n1 0\n1 1\n", ", line 3: the last of 3 rows of 2 numbers, expected as many rows"),
        (
            b"0 1\n1 0\n",
            ", line 2: the last row of a graph of 2 learners, expected 3; use another graph or "
            "--learners 2",
        ),
        (
            b".5 .5 0\n.5 .4 0\n0 .5 .5",
            ", line 2: the weights of learner 1 sum to 0.9, expected 1; correct",
        ),
        (b"1e308 1e308 1e308\n0 1 0\n0 0 1", ", line 1: the weights of learner 0 sum to inf, "),
        (b"0 2 0\n0 0 1\n1 0 0", ", line 1: the weights of learner 0 sum to 2, expected 1"),
        (
            b".5 .5 0\n.5 0 .5\n.5 0 .5",
            ", line 2: learner 1 gives itself weight 0, expected more; write a positive number "
            "in column 2",
        ),
        (
            b"1 0 0\n0 1 0\n0 0 1",
            ": learner 0's parameters never reach learner 1, expected a path between "
            "any two learners; add edges, or run independent learners with --topology none",
        ),
        (b"0 1 0\n1 0 0\n0 1 0", ": learner 2's parameters never reach learner 0, expected"),
        (b"0 1 0\n1 0 1\n0 0 0", ": learner 0's parameters never reach learner 2, "),
        (b"0 " * 4097, ", line 1: more than 4096 learners, expected at most that; use"),
        (b"0 0\n" * 4097, ", line 4097: more than 4096 learners, expected at most that; use"),
    ],
)
def test_what_is_wrong_with_a_file(graph_file: Write, content: bytes, expected: str) -> None:
    name = graph_file(content)
    assert refusal(name, 3).startswith(f"--topology {name}{expected}")


def test_what_is_no_file(tmp_path: Path) -> None:
    missing = f"file:{tmp_path}/no"
    assert refusal(missing, 3).startswith(f"--topology {missing}: No such file or directory; ")
    assert "not a regular file" in refusal(f"file:{tmp_path}", 3)
    assert "not a regular file" in refusal("file:", 3)
    assert "not a regular file" in refusal("file:/dev/zero", 3)
    assert "no file can have this name" in refusal("file:a\0b", 3)
    assert "No such file" in refusal("file:a\nb", 3)
    assert "File name too long" in refusal("file:" + "a" * 300, 3)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(f"file:{tmp_path}/pipe", 3)


def test_a_file_that_may_not_be_read(graph_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made up."""

    def denied(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    name = graph_file(RING)
    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied; expected a readable" in refusal(name, 3)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "larger than 64 MiB, expected at most that; " in refusal(f"file:{path}", 3)


def test_a_large_file_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "large", 1000
    write_digraph(path, size, weights=False)
    graph = FromFile(str(path), size)
    assert graph.out_peers(999, 0) == (0, 1, 4)
    assert pickle.loads(pickle.dumps(graph)).edges() == graph.edges()


fragments = st.sampled_from(
    [b"0", b"1", b"1", b" ", b" ", b",", b"\n", b"\n", b"\r", b"#", b".5", b"-", b"e", b"nan",
     b"inf", b"1e999", b"\x00", b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), b"_", b"\x1c"]
)  # fmt: skip
rows = st.lists(st.lists(st.sampled_from(["0", "1", ".5", ".25"]), min_size=3, max_size=3))
contents = st.one_of(
    st.binary(max_size=60),
    st.lists(fragments, max_size=40).map(b"".join),
    rows.map(lambda lines: "\n".join(" ".join(line) for line in lines).encode()),
)


def graph_or_mistake(name: str, size: int, weights: str) -> Topology | str:
    try:
        return make_topology(name, size, weights)
    except UserError as error:
        return str(error)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(contents, st.integers(1, 3), st.sampled_from(["auto", "uniform", "metropolis"]))
@example(b"1e308 1e308\n1e308 1e308", 2, "auto")
@example(b".5 .5\n.5 .5", 2, "auto")
@example(b"5e-324 1\n1 5e-324", 2, "auto")
def test_any_file_is_a_graph_or_a_mistake(
    graph_file: Write, content: bytes, size: int, weights: str
) -> None:
    graph = graph_or_mistake(graph_file(content), size, weights)
    if isinstance(graph, str):
        assert re.match(r"--(topology|gossip-weights) ", graph)
        assert graph.isprintable()
        return
    matrix = mixing_matrix(graph, 0)
    assert np.allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert (matrix.diagonal() > 0).all()
    assert everyone_reaches_everyone(size, set(graph.edges()))
