"""Resolved run: every choice of one attempt made, and the gossip graph.

    RunConfig + Machine --resolve_run--> ResolvedRun: Plan, Topology, the graph file as read

Runs in the supervisor, before any process starts and before anything is written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from galamp.core.config import GossipConfig, RunConfig
from galamp.core.disk import read_limited
from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine
from galamp.gossip.consensus.outer_growth import growth_per_round
from galamp.gossip.topologies import FILE, make_topology
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.from_node import FromNode
from galamp.storage.run_folder import GRAPH_LIMIT_BYTES, StoredChoices
from galamp.supervision.plan import Plan, make_plan
from galamp.training.resume import graph_file


class Graph(NamedTuple):
    """The file of a gossip graph, and its content when the graph was built from it."""

    path: Path
    content: bytes


@dataclass(frozen=True)
class ResolvedRun:
    """A plan, its gossip graph, and the file of the graph, if there is one."""

    plan: Plan
    topology: Topology
    graph: Graph | None = None


def resolve_run(config: RunConfig, machine: Machine, kept: StoredChoices) -> ResolvedRun:
    """Make every choice that `config` leaves open.

    Args:
        config: the settings.
        machine: the machine's cores, GPUs and limits.
        kept: stored choices of a run that is resumed.

    Raises:
        UserError: the settings do not fit the machine, or one another.
    """
    plan = make_plan(config, machine, resumed=kept.devices)
    path, gossip = graph_file(plan, kept.graph_of), plan.config.gossip
    name = gossip.topology if path is None else f"{FILE}{path}"
    content = None if path is None else _content(path)
    topology = make_topology(
        name,
        plan.ranks.all,
        gossip.gossip_weights,
        plan.config.seed,
        gossip.global_average_every,
        nodes=plan.ranks.nodes,
        nodes_every=gossip.nodes_every,
    )
    _check_outer_steps(gossip, topology)
    if plan.place is not None:
        topology = FromNode(topology, plan.ranks.among_all(0), plan.ranks.lanes)
    if path is None:
        return ResolvedRun(plan, topology)
    if content is None or content != _content(path):
        raise UserError(f"--topology {FILE}{path}: it was changed while it was read: start again")
    return ResolvedRun(plan, topology, Graph(path, content))


def _check_outer_steps(gossip: GossipConfig, topology: Topology) -> None:
    """Refuse outer steps that drive learners apart.

    Raises:
        UserError: over this graph, disagreement grows from round to round.
    """
    if not gossip.outer_steps:
        return
    growth = growth_per_round(topology, gossip.outer_momentum, gossip.outer_lr)
    if growth is not None and growth >= 1.0 and topology.edges():
        raise UserError(
            f"--outer-momentum {gossip.outer_momentum:g} --outer-lr {gossip.outer_lr:g}: over "
            f"--topology {gossip.graph} of {topology.size} learners, they multiply disagreement "
            f"by {growth:.4g} per round; use less of them, or another graph, such as "
            "bidirectional-ring"
        )


def _content(path: Path) -> bytes | None:
    """Return the content of a file; None if it cannot be read: `make_topology` reports why."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file can have this name
        return read_limited(path, GRAPH_LIMIT_BYTES)
    return None
