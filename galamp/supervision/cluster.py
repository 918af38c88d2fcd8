"""Runs on several machines: whether settings are fit for one, and what its nodes must agree on.

    RunConfig, Place --check_cluster--> a UserError, or the plan
    RunConfig, Ranks, model --about_run, digest_of--> identity of the run on the wire

Pure. Runs in the supervisor before any process starts.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import galamp
from galamp.core.config import GossipConfig, RunConfig
from galamp.core.errors import UserError
from galamp.core.nodes import MAX_LANES, MAX_LEARNERS, Place, Ranks
from galamp.gossip.cluster import port_class
from galamp.gossip.cluster.wire import FLOAT32, PROTOCOL
from galamp.gossip.topologies import FILE
from galamp.gossip.topologies.base import Topology


def check_cluster(config: RunConfig, place: Place, lanes: int) -> None:
    """Check that learners can gossip between nodes, `lanes` on each.

    Raises:
        UserError: they cannot, or what they need for it is not installed.
    """
    port_class(config.cluster.transport)
    gossip, nodes = config.gossip, f"--nodes {place.nodes}"
    if gossip.method != "gossip":
        raise UserError(f"{nodes}: --method {gossip.method} is for one machine; use gossip")
    if gossip.synchronous:
        raise UserError(
            f"{nodes}: in lock-step (--sync, --max-staleness 0) all would wait for every machine "
            "that is slow or dead; leave one of the two out"
        )
    if not gossip.exchanges:
        raise UserError(f"{nodes}: --topology none has no edge from one to another; choose a graph")
    if gossip.gradient_correlation:
        raise UserError(f"{nodes}: --gradient-correlation is for one machine; leave it out")
    if gossip.target_ball is not None:
        raise UserError(f"{nodes}: --target-ball is for one machine; use --gossip-every")
    if lanes > MAX_LANES or lanes * place.nodes > MAX_LEARNERS:
        raise UserError(
            f"{nodes} with --learners {lanes}: expected at most {MAX_LANES} on a machine, and "
            f"{MAX_LEARNERS:,} in all"
        )


def about_run(
    config: RunConfig, ranks: Ranks, env_id: str, network: str, parameters: int, graph: Topology
) -> str:
    """Return, in words, what all nodes of a run must agree on; `graph` is that of all learners."""
    gossip = config.gossip
    also = "" if gossip.gossip_weights == "auto" else f" with {gossip.gossip_weights} weights"
    also += ", with the optimiser's state" if gossip.gossip_optimizer else ""
    wire = config.cluster.wire
    also += "" if wire == FLOAT32 else f", {wire} on the wire"
    return (
        f"galamp {galamp.__version__} (protocol {PROTOCOL}), {env_id}, "
        f"{config.algorithm.algorithm}, {network} of {parameters:,} parameters, "
        f"{ranks.nodes} nodes of {ranks.lanes} learners, {_graph_words(gossip, graph)}{also}, "
        f"seed {config.seed}"
    )


def _graph_words(gossip: GossipConfig, graph: Topology) -> str:
    """Return the graph in words; of a file, which may lie elsewhere on each node, what it holds."""
    if not gossip.topology.startswith(FILE):
        return gossip.graph
    rows = [(graph.in_peers(rank, 0), graph.weights(rank, 0)) for rank in range(graph.size)]
    return replace(gossip, topology=f"graph {digest_of(rows):016x} from a file").graph


def digest_of(*values: object) -> int:
    """Return a number of 64 bits that stands for these values, the same on every node."""
    text = "\0".join(map(repr, values))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
