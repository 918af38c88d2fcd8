"""Other nodes as the supervisor has read them: who is there, and bytes per second to and from each.

    ClusterBoard --sample, several times a second--> NodeReadings --> NodeSnapshot

Runs in the supervisor; it only reads what the bridge writes.
"""

from __future__ import annotations

import numpy as np

from galamp.core.throughput import ThroughputMeter
from galamp.supervision.layout import RunLayout
from galamp.telemetry.learner_reading import RATE_WINDOW_S
from galamp.telemetry.snapshot import NodeSnapshot

_COUNTS = ("received", "sent", "overwritten", "refused")


class NodeReadings:
    """Earlier readings of the other nodes' counts, from which rates are computed."""

    def __init__(self, run_layout: RunLayout) -> None:
        self._board, self._ranks = run_layout.board, run_layout.plan.ranks
        ranks = self._ranks
        alone = self._board is None
        self._others = [] if alone else [n for n in range(ranks.nodes) if n != ranks.node]
        self._frame_bytes = 0 if alone else _frame_bytes(run_layout)
        self._meters = {
            (node, name): ThroughputMeter(RATE_WINDOW_S)
            for node in self._others
            for name in _COUNTS[:2]
        }

    def sample(self, now_s: float) -> None:
        """Record the counts of frames, for the rates over the last `RATE_WINDOW_S`."""
        for (node, name), meter in self._meters.items():
            assert self._board is not None
            meter.add(now_s, self._board.node(node, name))

    def snapshots(self) -> tuple[NodeSnapshot, ...]:
        """Return the other nodes, as the bridge sees them; none in a run on one machine."""
        return tuple(map(self._snapshot, self._others))

    def _snapshot(self, node: int) -> NodeSnapshot:
        assert self._board is not None
        learners = self._ranks.learners_of(node)
        return NodeSnapshot(
            node,
            (learners[0], learners[-1]),
            bool(self._board.node(node, "present")),
            *(self._board.node(node, name) for name in _COUNTS),
            *(self._meters[node, name].rate * self._frame_bytes for name in _COUNTS[:2]),
        )


def _frame_bytes(run_layout: RunLayout) -> int:
    """Return the length of a frame on the wire."""
    from galamp.gossip.cluster.wire import WireIdentity

    size = int(np.shape(run_layout.arrays["parameters0"])[1])
    wire = run_layout.plan.config.cluster.wire
    return WireIdentity(0, 0, size, run_layout.plan.ranks.all, wire).frame_bytes
