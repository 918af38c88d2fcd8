"""Resolved run: every choice of one attempt made, and the gossip graph.

    RunConfig + Machine --resolve_run--> ResolvedRun: Plan, Topology, the graph file as read

Runs in the supervisor, before any process starts and before anything is written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from galamp.core.config import RunConfig
from galamp.core.disk import read_limited
from galamp.core.errors import UserError
from galamp.core.machine.machine import Machine
from galamp.gossip.topologies import FILE, make_topology
from galamp.gossip.topologies.base import Topology
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
    count, weights, seed = len(plan.learners), gossip.gossip_weights, plan.config.seed
    if path is None:
        return ResolvedRun(plan, make_topology(gossip.topology, count, weights, seed))
    content = _content(path)
    topology = make_topology(f"{FILE}{path}", count, weights, seed)
    if content is None or content != _content(path):
        raise UserError(f"--topology {FILE}{path}: it was changed while it was read: start again")
    return ResolvedRun(plan, topology, Graph(path, content))


def _content(path: Path) -> bytes | None:
    """Return the content of a file; None if it cannot be read: `make_topology` reports why."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file can have this name
        return read_limited(path, GRAPH_LIMIT_BYTES)
    return None
