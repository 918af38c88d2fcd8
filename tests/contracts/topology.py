"""What every gossip graph must keep; inherit `TopologyContract` and say how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from galamp.gossip.topologies.base import Topology

SIZES = (1, 2, 3, 4, 7, 8, 64)


def rounds(topology: Topology) -> range:
    """Two periods and a bit."""
    return range(2 * topology.period() + 3)


@pytest.mark.parametrize("size", SIZES)
class TopologyContract(ABC):
    @abstractmethod
    def make(self, size: int) -> Topology:
        """Return the graph over `size` learners."""

    def test_it_knows_its_size(self, size: int) -> None:
        assert self.make(size).size == size

    def test_whoever_is_sent_to_receives_and_nobody_else(self, size: int) -> None:
        graph = self.make(size)
        for k in rounds(graph):
            sent = {(i, j) for i in range(size) for j in graph.out_peers(i, k)}
            received = {(i, j) for j in range(size) for i in graph.in_peers(j, k)}
            assert sent == received

    def test_peers_are_other_learners_in_ascending_order(self, size: int) -> None:
        graph = self.make(size)
        for k in rounds(graph):
            for rank in range(size):
                for peers in (graph.out_peers(rank, k), graph.in_peers(rank, k)):
                    assert isinstance(peers, tuple)
                    assert list(peers) == sorted(set(peers))
                    assert rank not in peers
                    assert all(0 <= peer < size for peer in peers)

    def test_it_repeats_after_its_period(self, size: int) -> None:
        graph = self.make(size)
        assert graph.period() >= 1
        for k in rounds(graph):
            for rank in range(size):
                later = k + graph.period()
                assert graph.out_peers(rank, k) == graph.out_peers(rank, later)
                assert graph.in_peers(rank, k) == graph.in_peers(rank, later)

    def test_its_edges_are_those_that_ever_occur(self, size: int) -> None:
        graph = self.make(size)
        occurring = {
            (i, j) for k in rounds(graph) for i in range(size) for j in graph.out_peers(i, k)
        }
        assert list(graph.edges()) == sorted(occurring)

    def test_it_is_a_pure_function(self, size: int) -> None:
        one, other = self.make(size), self.make(size)
        last = size - 1
        late = one.out_peers(last, 10**9)
        assert [one.out_peers(r, 0) for r in range(size)] == [
            other.out_peers(r, 0) for r in range(size)
        ]
        assert other.out_peers(last, 10**9) == late
