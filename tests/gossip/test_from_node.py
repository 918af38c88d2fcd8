"""A gossip graph as one of several nodes numbers it: that it is the same graph, whole."""

from __future__ import annotations

import numpy as np
import pytest

from galamp.core.nodes import Ranks
from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.from_node import FromNode
from galamp.gossip.transport.base import TransportContext
from galamp.gossip.transport.parameter_slots import gossip_specs
from galamp.gossip.transport.shared_memory import SharedMemoryTransport
from galamp.memory.arrays import SharedArrays, Wakeup
from galamp.memory.control import ControlBlock
from galamp.memory.status import StatusBoard
from tests.contracts.topology import TopologyContract, mixing_matrix, received, sent
from tests.support.loops import each

SIZE = 3
"""Parameters of a learner."""
MANY = 300
"""Rounds, of which most are beyond any horizon here."""


@pytest.mark.parametrize("name", ["base-3", "bipartite-exponential", "random-pairs"])
class TestFromNode(TopologyContract):
    """Of weights that differ from peer to peer, and of edges that occur after the horizon."""

    large = (1000,)

    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name
        self.edges_are_drawn = name == "random-pairs"

    def make(self, size: int) -> Topology:
        return FromNode(make_topology(self.name, size, seed=7), size // 3)


@each("name", ["ring", "star", "exponential", "hierarchical", "base-3"])
def test_every_node_sees_the_same_graph(name: str) -> None:
    nodes, lanes = 3, 2
    graph = make_topology(name, nodes * lanes, nodes=nodes)
    for node in range(nodes):
        here = FromNode(graph, node * lanes)
        order = [(rank + node * lanes) % here.size for rank in range(here.size)]
        for round_ in range(graph.period() or 1):
            seen = mixing_matrix(here, round_)
            assert np.allclose(seen, mixing_matrix(graph, round_)[np.ix_(order, order)])
            for there in range(graph.size):
                mixed = {(there + 1) % graph.size: round_}
                seen_so = {order.index(peer): last for peer, last in mixed.items()}
                choices = map(order.index, graph.choices(there, round_, mixed))
                assert here.choices(order.index(there), round_, seen_so) == tuple(choices)


@each("global_average_every", [None, 3])
@each("ranks", [Ranks(1, 5, 1), Ranks(2, 3, 3), Ranks(1, 2, 8)])
@each("name", sorted(TOPOLOGIES))
def test_what_is_ever_sent_goes_over_an_edge_that_is_known_before(
    name: str, ranks: Ranks, global_average_every: int | None
) -> None:
    graph = make_topology(
        name, ranks.all, global_average_every=global_average_every, nodes=ranks.nodes
    )
    here = FromNode(graph, ranks.among_all(0), ranks.lanes)
    edges = here.edges()
    assert list(edges) == sorted(set(edges))
    found = {(ranks.among_all(sender), ranks.among_all(receiver)) for sender, receiver in edges}
    assert found == set(graph.edges())
    assert sent(here, range(MANY)) | received(here, range(MANY)) <= set(edges)


@each("node", range(5))
@each("name", ["bipartite-exponential", "random-pairs"])
def test_a_learner_has_a_mailbox_for_whomever_it_sends_to(name: str, node: int) -> None:
    ranks = Ranks(node, 5, 1)
    graph = FromNode(make_topology(name, ranks.all), ranks.among_all(0), ranks.lanes)
    specs = ControlBlock.specs(ranks.all) + StatusBoard.specs(1, 1, (), len(ranks.remote))
    arrays = SharedArrays.create(specs + gossip_specs(graph, SIZE))
    wakeups = tuple(Wakeup() for _ in range(ranks.all))
    end = SharedMemoryTransport(TransportContext(arrays, 0, graph, SIZE, wakeups))
    for round_ in range(MANY):
        end.begin_write().fill_(1.0)
        header = end.end_write(incarnation=0, round_=round_, version=1)
        for peer in graph.out_peers(0, round_):
            end.notify(peer, header)
        for peer in graph.in_peers(0, round_):
            assert end.news(peer) is None


def test_whatever_a_graph_answers_for_itself_is_asked_of_it() -> None:
    """A method of `Topology` that one of them overrides would answer for another graph here."""
    methods = {name for name, value in vars(Topology).items() if callable(value)} - {"__init__"}
    overridden = {
        name for kind in _kinds_of(Topology) - {FromNode} for name in methods & vars(kind).keys()
    }
    assert "edges" in overridden
    assert overridden <= vars(FromNode).keys()


def _kinds_of(kind: type) -> set[type]:
    """Every graph that has been imported: those of the registry and their wrappers, at least."""
    for name in TOPOLOGIES:
        make_topology(name, 2)
    found = set(kind.__subclasses__())
    return found.union(*map(_kinds_of, found)) if found else found


@each("name", sorted(TOPOLOGIES))
@each("weights", ["auto", "uniform"])
def test_it_has_the_properties_of_the_graph(name: str, weights: str) -> None:
    if name.startswith("base-"):
        weights = "auto"
    graph = make_topology(name, 6, weights, seed=3, nodes=3)
    here = FromNode(graph, 2, 2)
    properties = {name for name, value in vars(Topology).items() if type(value) is bool}
    assert properties == {"doubly_stochastic", "symmetric", "weighted"}
    for each_name in ("size", "seed", *properties):
        assert getattr(here, each_name) == getattr(graph, each_name), each_name


@pytest.mark.parametrize(
    ("name", "lanes", "expected"),
    [
        ("hierarchical", 2, 1),
        ("hierarchical", 1, None),  # it has no others here
        ("ring", 2, None),  # the first one here receives from another node only
        ("complete", 2, None),  # all receive from both in one round
        ("random-pairs", 2, None),  # which are never known before
    ],
)
def test_rounds_in_a_row_with_other_nodes_only(name: str, lanes: int, expected: int | None) -> None:
    graph = make_topology(name, 2 * lanes, nodes=2)
    assert FromNode(graph, 0, lanes).rounds_outside() == expected
