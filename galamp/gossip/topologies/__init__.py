"""Gossip graphs by name. To add one: a file here, a line in `TOPOLOGIES`, the contract test."""

from __future__ import annotations

import importlib
from typing import cast

from galamp.core.errors import UserError, did_you_mean
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.metropolis import Metropolis
from galamp.gossip.topologies.periodic_global import PeriodicGlobalAverage

HIERARCHICAL = "hierarchical"
"""The graph that knows machines."""

TOPOLOGIES = {
    "ring": "galamp.gossip.topologies.ring:DirectedRing",
    "bidirectional-ring": "galamp.gossip.topologies.bidirectional_ring:BidirectionalRing",
    "exponential": "galamp.gossip.topologies.exponential:Exponential",
    "one-peer-exponential": "galamp.gossip.topologies.one_peer_exponential:OnePeerExponential",
    "bipartite-exponential": "galamp.gossip.topologies.bipartite_exponential:BipartiteExponential",
    "complete": "galamp.gossip.topologies.complete:Complete",
    "torus": "galamp.gossip.topologies.torus:Torus",
    "random-pairs": "galamp.gossip.topologies.random_pairs:RandomPairs",
    "base-2": "galamp.gossip.topologies.base_graph:Base2",
    "base-3": "galamp.gossip.topologies.base_graph:Base3",
    HIERARCHICAL: "galamp.gossip.topologies.hierarchical:Hierarchical",
    "star": "galamp.gossip.topologies.star:Star",
    "none": "galamp.gossip.topologies.independent:Independent",
}
"""Name -> `module:Class`, imported on use."""

FILE = "file:"
"""Prefix of the path of a graph file."""

WEIGHTS = ("auto", "uniform", "metropolis")
"""Kinds of mixing weights: `auto` keeps the weights that suit the graph."""


def make_topology(
    name: str,
    size: int,
    weights: str = "auto",
    seed: int = 0,
    global_average_every: int | None = None,
    *,
    nodes: int = 1,
    nodes_every: int = 4,
) -> Topology:
    """Return the graph `name` (of `TOPOLOGIES`, or `file:PATH`) over `size` learners.

    `auto` uses the weights of the file if it has some; else uniform weights if they are doubly
    stochastic or the graph is directed; else (the star, irregular undirected files) Metropolis
    weights. `uniform` gives all peers the learner's own weight, and ignores the weights of a file.
    With `global_average_every` H, every H-th round averages over all learners instead. Only the
    graph `hierarchical` knows of `nodes` machines: it joins them in every `nodes_every`-th round.

    Raises:
        UserError: the name is unknown, the file holds no such graph, or the weights do not fit it.
    """
    over = {"nodes": nodes, "every": nodes_every} if name == HIERARCHICAL else {}
    graph = _graph(name, size, weights, seed, over)
    if global_average_every is None:
        return graph
    return PeriodicGlobalAverage(graph, global_average_every)


def _graph(name: str, size: int, weights: str, seed: int, over: dict[str, int]) -> Topology:
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
    graph = cast(Topology, getattr(importlib.import_module(module), kind)(size, seed, **over))
    return _weighed(graph, name, weights)


def _from_file(name: str, size: int, weights: str) -> Topology:
    from galamp.gossip.topologies.from_file import FromFile

    graph = FromFile(name.removeprefix(FILE), size, uniform=weights == "uniform")
    if not graph.weighted:
        return _weighed(graph, graph.shown, weights)
    if weights == "metropolis":
        raise UserError(
            f"--gossip-weights metropolis: the file of --topology {graph.shown} has its own "
            "weights, expected a file of 0 and 1; use --gossip-weights auto"
        )
    return graph


def _weighed(graph: Topology, name: str, weights: str) -> Topology:
    """Return `graph` with weights of the kind `weights`; uniform unless it has its own."""
    if graph.weighted and weights != "auto":
        raise UserError(
            f"--gossip-weights {weights}: the weights of --topology {name} are part of it, and "
            "with others it does not average exactly; use --gossip-weights auto"
        )
    if weights == "metropolis" and not graph.symmetric:
        raise UserError(
            f"--gossip-weights metropolis: expected a graph with every edge in both directions, "
            f"which --topology {name} is not; use --gossip-weights auto or another graph"
        )
    irregular = graph.symmetric and not graph.doubly_stochastic
    if weights == "metropolis" or (weights == "auto" and irregular):
        return Metropolis(graph)
    return graph
