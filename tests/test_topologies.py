"""Gossip graphs: the contract for every registered one, and what each is known for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.gossip.topologies.base import Topology
from tests.contracts.topology import SIZES, TopologyContract


@pytest.fixture(params=sorted(TOPOLOGIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestRegistered(TopologyContract):
    """Whatever is in the registry, under its name."""

    build: Callable[[int], Topology]

    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.build = lambda size: make_topology(name, size)

    def make(self, size: int) -> Topology:
        return self.build(size)


def reached(graph: Topology, start: int) -> set[int]:
    """Whom a message of `start` gets to, sooner or later."""
    found, queue = {start}, [start]
    while queue:
        sender = queue.pop()
        fresh = {j for i, j in graph.edges() if i == sender} - found
        found |= fresh
        queue += fresh
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_has_one_way_in_one_way_out_and_goes_all_round(size: int) -> None:
    ring = make_topology("ring", size)
    expected = 0 if size == 1 else 1
    for rank in range(size):
        assert len(ring.out_peers(rank, 0)) == len(ring.in_peers(rank, 0)) == expected
        assert reached(ring, rank) == set(range(size))


def test_a_ring_goes_upwards() -> None:
    assert make_topology("ring", 4).edges() == ((0, 1), (1, 2), (2, 3), (3, 0))


@pytest.mark.parametrize("size", SIZES)
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
