"""Gossip graphs by name. A new one: a file here, a line in `TOPOLOGIES`, the contract test."""

from __future__ import annotations

import importlib
from typing import cast

from galamp.core.errors import UserError, did_you_mean
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.metropolis import Metropolis

TOPOLOGIES = {
    "ring": "galamp.gossip.topologies.ring:DirectedRing",
    "bidirectional-ring": "galamp.gossip.topologies.bidirectional_ring:BidirectionalRing",
    "exponential": "galamp.gossip.topologies.exponential:Exponential",
    "one-peer-exponential": "galamp.gossip.topologies.one_peer_exponential:OnePeerExponential",
    "bipartite-exponential": "galamp.gossip.topologies.bipartite_exponential:BipartiteExponential",
    "complete": "galamp.gossip.topologies.complete:Complete",
    "torus": "galamp.gossip.topologies.torus:Torus",
    "random-pairs": "galamp.gossip.topologies.random_pairs:RandomPairs",
    "star": "galamp.gossip.topologies.star:Star",
    "none": "galamp.gossip.topologies.independent:Independent",
}
"""Name to `module:Class`, loaded when asked for."""

FILE = "file:"
"""Before the path of a file that holds a graph."""

WEIGHTS = ("auto", "uniform", "metropolis")
"""Ways to weigh peers: `auto` keeps what the graph prefers."""


def make_topology(name: str, size: int, weights: str = "auto", seed: int = 0) -> Topology:
    """Return the graph `name` (of `TOPOLOGIES`, or `file:PATH`) over `size` learners.

    `auto` takes the file's weights where it brings some, else uniform ones where they are doubly
    stochastic or the graph is directed, else (the star, irregular undirected files) Metropolis
    weights. `uniform` weighs all peers as oneself, whatever the file says.

    Raises:
        UserError: the file holds no such graph, or the weights do not fit the graph.
    """
    if weights not in WEIGHTS:
        raise UserError(
            f"--gossip-weights {weights!r}: expected one of {', '.join(WEIGHTS)}"
            f"{did_you_mean(weights, WEIGHTS)}"
        )
    if name.startswith(FILE):
        return _from_file(name, size, weights)
    if name not in TOPOLOGIES:
        raise UserError(
            f"--topology {name!r}: expected one of {', '.join(TOPOLOGIES)}, or {FILE}PATH"
            f"{did_you_mean(name, TOPOLOGIES)}"
        )
    module, _, kind = TOPOLOGIES[name].partition(":")
    graph = cast(Topology, getattr(importlib.import_module(module), kind)(size, seed))
    return _weighed(graph, name, weights)


def _from_file(name: str, size: int, weights: str) -> Topology:
    from galamp.gossip.topologies.from_file import FromFile

    graph = FromFile(name.removeprefix(FILE), size, uniform=weights == "uniform")
    if not graph.weighted:
        return _weighed(graph, graph.shown, weights)
    if weights == "metropolis":
        raise UserError(
            f"--gossip-weights metropolis: the file of --topology {graph.shown} brings its own "
            "weights, expected one of 0 and 1; say --gossip-weights auto"
        )
    return graph


def _weighed(graph: Topology, name: str, weights: str) -> Topology:
    """Return `graph`, which weighs uniformly, weighed as asked for."""
    if weights == "metropolis" and not graph.symmetric:
        raise UserError(
            f"--gossip-weights metropolis: expected a graph where whoever sends also receives, "
            f"which --topology {name} is not; say --gossip-weights auto or take another graph"
        )
    unfair = graph.symmetric and not graph.doubly_stochastic
    if weights == "metropolis" or (weights == "auto" and unfair):
        return Metropolis(graph)
    return graph
