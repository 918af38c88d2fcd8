"""Task of a node's bridge: its arguments. The supervisor writes it."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.nodes import Place, Ranks
from galamp.gossip.cluster import ZENOH
from galamp.gossip.cluster.wire import FLOAT32
from galamp.gossip.topologies.base import Topology
from galamp.memory.arrays import SharedArrays, Wakeup


@dataclass(frozen=True)
class BridgeTask:
    """Arguments of a node's bridge; `wakeups` are of all learners, as this node numbers them.

    `parameters`: how many numbers of a vector, from the first on, are the network's; those of an
    optimiser's state may follow. `paced`: what learners publish may wait until the bridge has
    processor time left.
    """

    arrays: SharedArrays
    place: Place
    ranks: Ranks
    topology: Topology
    wakeup: Wakeup
    wakeups: tuple[Wakeup, ...]
    about: str
    run: int
    model: int
    parameters: int
    certificate: bool
    port: str = ZENOH
    wire: str = FLOAT32
    paced: bool = False
