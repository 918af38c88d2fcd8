"""Gossip graphs by name. A new one: a file here, a line in `TOPOLOGIES`, the contract test."""

from __future__ import annotations

import importlib
from typing import cast

from galamp.gossip.topologies.base import Topology

TOPOLOGIES = {
    "ring": "galamp.gossip.topologies.ring:DirectedRing",
    "none": "galamp.gossip.topologies.independent:Independent",
}
"""Name to `module:Class`, loaded when asked for."""


def make_topology(name: str, size: int) -> Topology:
    """Return the graph `name` over `size` learners."""
    module, _, kind = TOPOLOGIES[name].partition(":")
    return cast(Topology, getattr(importlib.import_module(module), kind)(size))
