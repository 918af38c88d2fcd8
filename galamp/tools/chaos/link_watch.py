"""Link watch: observes the link to the second node and that node, and checks their invariants.

    Link, LinkView, SecondNode, open faults --every tick--> CutNoticed, VectorsArrive, NoneRefused,
                                                            OtherRuns, MachineReturns, WireBytes
    bridges, the other supervisor      --at intervals-----> BothFlat

Runs in the supervisor, in runs on two machines only.
"""

from __future__ import annotations

import time

from galamp.gossip.cluster.wire import FLOAT32, NUMBER_BYTES
from galamp.storage.checkpoint import FLOAT_BYTES
from galamp.tools.chaos import procfs
from galamp.tools.chaos.clock import Clock
from galamp.tools.chaos.injector import Injector
from galamp.tools.chaos.invariants import USUAL_GAPS, Invariant
from galamp.tools.chaos.link import LinkView
from galamp.tools.chaos.link_invariants import (
    BothFlat,
    CutNoticed,
    MachineReturns,
    NoneRefused,
    OtherRuns,
    VectorsArrive,
    WireBytes,
)
from galamp.tools.chaos.schedule import MACHINE, Kind
from galamp.tools.chaos.second_node import SecondNode
from galamp.training.supervisor import Supervisor

LOOK_EVERY_S = 0.25
"""How often the processes of a machine that returns are looked for."""
VECTORS = 6
"""Vectors that may be under way in a bridge."""


class LinkWatch:
    """The invariants of one link."""

    def __init__(
        self, supervisor: Supervisor, injector: Injector, view: LinkView, second: SecondNode
    ) -> None:
        self._children, self._injector = supervisor.children, injector
        self._view, self._second, self.busy = view, second, second.busy
        gossip = supervisor.run_layout.plan.config.gossip
        self._up, self._look = False, Clock(LOOK_EVERY_S)
        self.returning = MachineReturns(second.busy)
        self._rounds = gossip.gossip_every * gossip.nodes_every
        self.noticed, self.arriving = CutNoticed(), VectorsArrive(second.busy)
        self.none_refused, self.other = NoneRefused(), OtherRuns()
        layout = supervisor.run_layout
        numbers = layout.arrays["parameters0"][0].size
        self._vector_bytes = numbers * NUMBER_BYTES[FLOAT32]
        self._state_bytes = layout.count * sum(layout.sketch.state_sizes.values()) * FLOAT_BYTES
        self.flat, self._unheard_s = BothFlat(), 0.0
        wire = layout.plan.config.cluster.wire
        self.wire = WireBytes(numbers * NUMBER_BYTES[wire], layout.count)

    @property
    def invariants(self) -> list[Invariant]:
        """All of them, in order."""
        return [
            *(self.noticed, self.arriving, self.none_refused, self.other, self.flat),
            *(self.returning, self.wire),
        ]

    def set_usual_turn(self, usual_turn_s: float) -> None:
        """Set the usual duration of a turn, once the warm-up is over."""
        bound_s = USUAL_GAPS * usual_turn_s * self._rounds
        self.arriving.bound_s = max(self.arriving.bound_s, bound_s)

    def weigh(self) -> None:
        """Compare what bridges and the other supervisor hold with before; no fault is open."""
        bridge, vectors = self._children.bridge, VECTORS * self._vector_bytes
        weighed = (
            ("bridge", None if bridge is None else bridge.pid, vectors),
            ("the other machine's bridge", self._second.bridge, vectors),
            # A checkpoint that it writes, in memory twice, and the one that it was resumed from.
            ("the other machine's supervisor", self._second.supervisor, 3 * self._state_bytes),
        )
        for role, pid, room_bytes in weighed:
            if pid is not None and (own_bytes := procfs.own_bytes(pid)):
                files = procfs.descriptors(pid)
                self.flat.observe(role, pid, files, own_bytes, room_bytes)

    def check(self, passed_s: float) -> None:
        """Check all; `passed_s`: since the last time, without pauses of this machine."""
        view, link = self._view, self._second.link
        view.other.poll(time.monotonic())
        killed = any(each.fault.role == MACHINE for each in self._injector.open)
        bridge_hit, received = self._bridge_is_hit, view.received
        hit = bridge_hit or killed  # `returning` has bounds for that
        returns = killed and not self._second.away
        self.returning.observe(passed_s, returns=returns, up=self._is_up(returns), hit=bridge_hit)
        cut = any(e.fault.kind is Kind.CUT and not link.whole for e in self._injector.open)
        self.noticed.observe(passed_s, cut=cut, present=view.present, hit=hit)
        self.arriving.observe(passed_s, whole=link.whole, received=received, hit=hit)
        self.none_refused.observe(received + view.received_there, view.refused + view.other.refused)
        self.other.observe(self._second.stopped)
        self._unheard_s += passed_s
        if link.count():
            calm = not self._injector.open and link.whole and view.present
            counts = {"forwarded": link.answered, "sent": view.sent}
            self.wire.observe(self._unheard_s, calm=calm, **counts)
            self._unheard_s = 0.0

    @property
    def descriptors(self) -> int:
        """Number of files that this holds open in the supervisor."""
        return self._view.other.descriptors

    def close(self) -> None:
        """Ask the other node no more."""
        self._view.other.close()

    def _is_up(self, returns: bool) -> bool:
        """Whether the bridge of a machine that returns runs, as was last looked up."""
        if not returns:
            self._up = False
        elif not self._up and self._look.due(time.monotonic()):
            self._up = self._second.bridge is not None
        return self._up

    @property
    def _bridge_is_hit(self) -> bool:
        """Whether the bridge does not run now, or has not recovered from a fault."""
        bridge = self._children.bridge
        if bridge is None or not bridge.has_process:
            return True
        faults = self._injector.open
        return any(bridge in each.children for each in faults)
