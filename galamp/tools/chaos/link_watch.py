"""Link watch: observes the link to the second node and that node, and checks their invariants.

    Link, LinkView, SecondNode, open faults --every tick--> CutNoticed, VectorsArrive, NoneRefused,
                                                            OtherRuns

Runs in the supervisor, in runs on two machines only.
"""

from __future__ import annotations

from galamp.tools.chaos import procfs
from galamp.tools.chaos.injector import Injector
from galamp.tools.chaos.invariants import USUAL_GAPS, Invariant
from galamp.tools.chaos.link import LinkView
from galamp.tools.chaos.link_invariants import (
    BridgeFlat,
    CutNoticed,
    NoneRefused,
    OtherRuns,
    VectorsArrive,
)
from galamp.tools.chaos.schedule import MACHINE, Kind
from galamp.tools.chaos.second_node import SecondNode
from galamp.training.supervisor import Supervisor

BOOT_S = 30.0
"""The other machine, started again, sends its first vector within this time, and `MIXES_S`."""


class LinkWatch:
    """The invariants of one link."""

    def __init__(
        self, supervisor: Supervisor, injector: Injector, view: LinkView, second: SecondNode
    ) -> None:
        self._children, self._injector = supervisor.children, injector
        self._view, self._second, self.busy = view, second, second.busy
        gossip = supervisor.run_layout.plan.config.gossip
        self._start_s = 0.0
        self._rounds = gossip.gossip_every * gossip.nodes_every
        self.noticed, self.arriving = CutNoticed(), VectorsArrive()
        self.none_refused, self.other = NoneRefused(), OtherRuns()
        self.flat = BridgeFlat(supervisor.run_layout.arrays["parameters0"][0].nbytes)

    @property
    def invariants(self) -> list[Invariant]:
        """All of them, in order."""
        return [self.noticed, self.arriving, self.none_refused, self.other, self.flat]

    def set_usual_turn(self, usual_turn_s: float) -> None:
        """Set the usual duration of a turn, once the warm-up is over."""
        bound_s = USUAL_GAPS * usual_turn_s * self._rounds
        self.arriving.bound_s = max(self.arriving.bound_s, bound_s)

    def weigh(self) -> None:
        """Compare what the second node's bridge holds with the first time; no fault is open."""
        pid = self._second.bridge
        if pid is not None:
            self.flat.observe(pid, procfs.descriptors(pid), procfs.own_bytes(pid))

    def check(self, passed_s: float) -> None:
        """Check all; `passed_s`: since the last time, without pauses of this machine."""
        view, link = self._view, self._second.link
        hit, received = self._bridge_is_hit or self._starts(passed_s), view.received
        cut = any(e.fault.kind is Kind.CUT and not link.whole for e in self._injector.open)
        self.noticed.observe(passed_s, cut=cut, present=view.present, hit=hit)
        self.arriving.observe(passed_s, whole=link.whole, received=received, hit=hit)
        self.none_refused.observe(received, view.refused)
        self.other.observe(self._second.stopped)

    def _starts(self, passed_s: float) -> bool:
        """Whether the other node is away, or has time left to come back."""
        killed = any(each.fault.role == MACHINE for each in self._injector.open)
        self._start_s = self._start_s + passed_s if killed and not self._second.away else 0.0
        return killed and self._start_s < BOOT_S

    @property
    def _bridge_is_hit(self) -> bool:
        """Whether the bridge does not run now, or has not recovered from a fault."""
        bridge = self._children.bridge
        if bridge is None or not bridge.has_process:
            return True
        faults = self._injector.open
        return any(bridge in each.children for each in faults)
