"""What every gossip graph must keep; inherit `TopologyContract` and say how to make one."""

from __future__ import annotations

import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from galamp.gossip.topologies.base import Topology
from tests.support.loops import each

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 33, 64)
STARTS = (0, 1, 5, 31, 32, 33, 1000, 10**9)
FEW = 24
"""Most rounds looked at where every learner's peers are."""


def sampled_rounds(graph: Topology) -> list[int]:
    """The first ones, those where a period ends, and very late ones."""
    period = graph.period() or FEW
    first = range(min(period + 2, FEW))
    return sorted({*first, *range(max(0, period - 2), period + 3), 10**9, 10**9 + 1})


def sampled_ranks(size: int) -> list[int]:
    return sorted({0, 1, 2, size // 3, size // 2, size - 2, size - 1})


def sent(graph: Topology, rounds: Iterable[int]) -> set[tuple[int, int]]:
    """Every (sender, receiver), as the senders see it."""
    everyone = range(graph.size)
    return {(i, j) for k in rounds for i in everyone for j in graph.out_peers(i, k)}


def received(graph: Topology, rounds: Iterable[int]) -> set[tuple[int, int]]:
    """Every (sender, receiver), as the receivers see it."""
    everyone = range(graph.size)
    return {(i, j) for k in rounds for j in everyone for i in graph.in_peers(j, k)}


def mixing_matrix(graph: Topology, round_: int) -> NDArray[np.float64]:
    """P of [receiver, sender] in this round."""
    matrix = np.zeros((graph.size, graph.size))
    for rank in range(graph.size):
        own, *shares = graph.weights(rank, round_)
        matrix[rank, rank] = own
        matrix[rank, list(graph.in_peers(rank, round_))] = shares
    return matrix


def everyone_reaches_everyone(size: int, edges: set[tuple[int, int]]) -> bool:
    """By squaring, until nothing is added, who reaches whom."""
    reach = np.eye(size)
    for sender, receiver in edges:
        reach[sender, receiver] = 1
    for _ in range(size.bit_length()):
        reach = (reach @ reach > 0).astype(np.float64)
    return bool(reach.all())


class TopologyContract(ABC):
    connected = True
    """Whether everyone's parameters get to everyone."""

    edges_are_drawn = False
    """Whether chance decides which of `edges()` occur within the rounds looked at."""

    large: tuple[int, ...] = (1000, 4096)
    """Sizes at which only some ranks are looked at."""

    @abstractmethod
    def make(self, size: int) -> Topology:
        """Return the graph over `size` learners."""

    @each("size", SIZES)
    def test_it_knows_its_size(self, size: int) -> None:
        assert self.make(size).size == size

    @each("size", SIZES)
    def test_whoever_is_sent_to_receives_and_nobody_else(self, size: int) -> None:
        graph = self.make(size)
        for k in sampled_rounds(graph):
            assert sent(graph, [k]) == received(graph, [k])

    @each("size", SIZES)
    def test_peers_are_other_learners_in_ascending_order(self, size: int) -> None:
        graph = self.make(size)
        for k in sampled_rounds(graph):
            for rank in range(size):
                for peers in (graph.out_peers(rank, k), graph.in_peers(rank, k)):
                    assert isinstance(peers, tuple)
                    assert all(type(peer) is int for peer in peers)
                    assert list(peers) == sorted(set(peers))
                    assert rank not in peers
                    assert all(0 <= peer < size for peer in peers)

    @each("size", SIZES)
    def test_its_horizon_connects_everyone_from_any_round_on(self, size: int) -> None:
        graph = self.make(size)
        assert graph.horizon() >= 1
        for start in STARTS:
            edges = sent(graph, range(start, start + graph.horizon()))
            assert everyone_reaches_everyone(size, edges) == (self.connected or size == 1)

    @each("size", SIZES)
    def test_weights_are_those_of_an_average(self, size: int) -> None:
        graph = self.make(size)
        for k in sampled_rounds(graph):
            for rank in range(size):
                weights = graph.weights(rank, k)
                assert isinstance(weights, tuple)
                assert all(type(weight) is float for weight in weights)
                assert len(weights) == 1 + len(graph.in_peers(rank, k))
                assert all(weight > 0 for weight in weights)
                assert math.isclose(math.fsum(weights), 1, rel_tol=1e-12)

    @each("size", SIZES)
    def test_it_knows_whether_its_columns_sum_to_one(self, size: int) -> None:
        graph = self.make(size)
        sums = [mixing_matrix(graph, k).sum(axis=0) for k in sampled_rounds(graph)]
        assert graph.doubly_stochastic == bool(np.allclose(sums, 1, rtol=0, atol=1e-9))

    @each("size", SIZES)
    def test_it_knows_whether_it_is_symmetric(self, size: int) -> None:
        graph = self.make(size)
        there = [sent(graph, [k]) for k in sampled_rounds(graph)]
        assert graph.symmetric == all({(j, i) for i, j in edges} == edges for edges in there)

    @each("size", SIZES)
    def test_it_repeats_after_its_period(self, size: int) -> None:
        graph = self.make(size)
        period = graph.period()
        if period is None:
            rounds = [sorted(sent(graph, [k])) for k in range(FEW)]
            assert any(rounds[0] != other for other in rounds)
            return
        assert period >= 1
        for k in sampled_rounds(graph):
            for rank in range(size):
                for call in (graph.out_peers, graph.in_peers, graph.weights):
                    assert call(rank, k) == call(rank, k + period) == call(rank, k + 3 * period)

    @each("size", SIZES)
    def test_it_does_not_repeat_before_its_period(self, size: int) -> None:
        graph = self.make(size)
        period = graph.period()
        rounds = [sorted(sent(graph, [k])) for k in range(2 * (period or 1))]
        shorter = [s for s in range(1, period or 1) if rounds == rounds[s:] + rounds[:s]]
        assert shorter == []

    @each("size", SIZES)
    def test_its_edges_are_those_that_ever_occur(self, size: int) -> None:
        graph = self.make(size)
        edges = graph.edges()
        assert isinstance(edges, tuple)
        assert list(edges) == sorted(set(edges))
        period = graph.period()
        occurring = sent(graph, range(FEW if period is None else period))
        if self.edges_are_drawn:
            assert occurring <= set(edges)
        else:
            assert occurring == set(edges)

    @each("size", SIZES)
    def test_it_is_a_pure_function(self, size: int) -> None:
        one, other = self.make(size), self.make(size)
        calls = [(rank, k) for k in (0, 3, 40, 10**9) for rank in range(size)]
        forth = [(one.out_peers(*c), one.in_peers(*c), one.weights(*c)) for c in calls]
        back = [
            (other.out_peers(*c), other.in_peers(*c), other.weights(*c)) for c in reversed(calls)
        ]
        assert forth == back[::-1]
        travelled = pickle.loads(pickle.dumps(one))
        assert forth == [
            (travelled.out_peers(*c), travelled.in_peers(*c), travelled.weights(*c)) for c in calls
        ]
        assert travelled.edges() == one.edges()

    def test_it_holds_for_many_learners(self) -> None:
        for size in self.large:
            graph = self.make(size)
            assert graph.size == size
            for k in (0, 1, 10**9):
                for rank in sampled_ranks(size):
                    to, by = graph.out_peers(rank, k), graph.in_peers(rank, k)
                    assert all(rank in graph.in_peers(peer, k) for peer in to[:: 1 + len(to) // 20])
                    assert all(
                        rank in graph.out_peers(peer, k) for peer in by[:: 1 + len(by) // 20]
                    )
                    assert all(0 <= peer < size and peer != rank for peer in (*to, *by))
                    assert math.isclose(math.fsum(graph.weights(rank, k)), 1, rel_tol=1e-12)
