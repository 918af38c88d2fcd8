"""Border of a node: what its memory has for the learners of other nodes, and its bridge's task.

    Plan, SharedArrays --Border--> ClusterBoard, wake-ups, BridgeTask

Runs in the supervisor, of runs on several machines only: no other one loads it.
"""

from __future__ import annotations

from galamp.core.nodes import Place
from galamp.gossip.cluster.mirrors import INCARNATION
from galamp.gossip.topologies.base import Topology
from galamp.gossip.topologies.from_node import FromNode
from galamp.memory.arrays import ArraySpec, SharedArrays, Wakeup
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.control import ControlBlock
from galamp.supervision.cluster import digest_of
from galamp.supervision.plan import Plan
from galamp.workers.bridge_task import BridgeTask


class Border:
    """A node's border; `wakeup` stands for those of all learners of other nodes."""

    def __init__(self, plan: Plan, place: Place, arrays: SharedArrays) -> None:
        self._plan, self._place, self._arrays = plan, place, arrays
        ranks = plan.ranks
        self.board = ClusterBoard(arrays, ranks.nodes, ranks.all)
        self._wakeup = Wakeup()
        control = ControlBlock(arrays)
        for rank in ranks.remote:
            control.set_incarnation(rank, INCARNATION)

    @staticmethod
    def specs(plan: Plan) -> list[ArraySpec]:
        """Return the arrays that a run on one machine has not."""
        return ClusterBoard.specs(plan.ranks.nodes, plan.ranks.all)

    def wakeups(self) -> tuple[Wakeup, ...]:
        """Return one of each learner of the other nodes, in order."""
        return (self._wakeup,) * len(self._plan.ranks.remote)

    def task(
        self,
        topology: Topology,
        wakeups: tuple[Wakeup, ...],
        about: str,
        model: tuple[object, ...],
        parameters: int,
    ) -> BridgeTask:
        """Return the task of the bridge.

        Args:
            topology: gossip graph over all learners, as this node numbers them.
            wakeups: of all learners.
            about: what all nodes must agree on, in words.
            model: what their vectors are made of.
            parameters: of the network.
        """
        config = self._plan.config
        return BridgeTask(
            arrays=self._arrays,
            place=self._place,
            ranks=self._plan.ranks,
            topology=topology,
            wakeup=self._wakeup,
            wakeups=wakeups,
            about=about,
            run=digest_of(about, config.cluster.join),
            model=digest_of(*model),
            parameters=parameters,
            certificate=config.gossip.certificate,
            port=config.cluster.transport,
            wire=config.cluster.wire,
            paced=_can_be_late(topology, config.gossip.max_staleness),
        )


def _can_be_late(topology: Topology, max_staleness: int | None) -> bool:
    """Whether no learner mixes less within the node, or waits, where other nodes' vectors are late.

    As in a hierarchical graph, which has rounds for either, unless a learner waits at once.
    """
    rounds = topology.rounds_outside() if isinstance(topology, FromNode) else None
    return rounds is not None and (max_staleness is None or rounds < max_staleness)
