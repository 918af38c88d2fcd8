"""Fault injector: signals to a run's own processes, and the recovery of their targets.

    Fault, due --Injector--> signal --> InjectedFault: noticed? works again?

Runs in the supervisor, which knows the process of each child. A fault is delayed while its target
does not run, or has not recovered from its last one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from galamp.memory.status import Phase
from galamp.supervision.child import Child
from galamp.supervision.children import Children
from galamp.tools.chaos.procfs import server_of
from galamp.tools.chaos.recovery import Span
from galamp.tools.chaos.schedule import BRIDGE, LEARNER, LINK, MACHINE, SERVER, Fault, Kind

SIGNALS = {
    Kind.KILL: signal.SIGKILL,
    Kind.STOP: signal.SIGSTOP,
    Kind.HANG: signal.SIGSTOP,
    Kind.SEGV: signal.SIGSEGV,
    Kind.ABRT: signal.SIGABRT,
    Kind.TERM: signal.SIGTERM,
}


NETWORK = -1
"""Stands among ranks for the bridge, the link to another node, and that node."""


@dataclass
class Target:
    """One child that a fault has hit: its incarnation, pid and work at that time."""

    child: Child
    incarnation: int
    work: int
    pid: int
    replaced: bool = False

    def update(self) -> None:
        """Check whether the process has ended; work is counted from then on."""
        if not self.replaced and self.child.incarnation > self.incarnation:
            self.replaced, self.work = True, self.child.work

    @property
    def works(self) -> bool:
        """Whether the child has worked since."""
        return self.child.has_process and self.child.work > self.work


@dataclass
class InjectedFault:
    """A fault that was injected, and its effects; times are on the supervisor's clock."""

    fault: Fault
    at_s: float
    hits: list[Target]
    is_continued: bool = False
    """Whether SIGCONT was sent to a stopped process."""
    noticed_s: float | None = None
    back_s: float | None = None
    usual: float | None = None
    """Agent steps per second before it; like the next field, set at the end."""
    steps_back_s: float | None = None
    """Seconds until throughput has recovered, None if it never has."""

    def update(self, now_s: float) -> None:
        """Check how far the targets have recovered."""
        for hit in self.hits:
            hit.update()
        if self.noticed_s is None and all(hit.replaced for hit in self.hits):
            self.noticed_s = now_s
        if self._counts_work and all(hit.works for hit in self.hits):
            self.back_s = now_s

    @property
    def _counts_work(self) -> bool:
        """Whether observed work is work after the fault."""
        if self.fault.kind.deadly:
            return self.noticed_s is not None
        return self.fault.kind is Kind.TERM or self.is_continued or self.noticed_s is not None

    @property
    def over(self) -> bool:
        """Whether all targets work again."""
        return self.back_s is not None

    @property
    def since_s(self) -> float:
        """Time at which its effect starts: of a hang, when the hang limit has ended the process."""
        hang = self.fault.kind is Kind.HANG
        return self.noticed_s if hang and self.noticed_s is not None else self.at_s

    @property
    def span(self) -> Span:
        """Time from the signal until work continues."""
        return Span(self.at_s, self.back_s if self.back_s is not None else float("inf"))

    @property
    def ranks(self) -> set[int]:
        """Ranks of the affected groups: a learner and its simulators wait for one another.

        Bridge, link and the other machine are one group, `NETWORK`.
        """
        if self.fault.role in (BRIDGE, LINK, MACHINE):
            return {NETWORK}
        return {hit.child.rank for hit in self.hits}

    @property
    def children(self) -> list[Child]:
        """The children that it hit."""
        return [hit.child for hit in self.hits]

    def mend(self, now_s: float) -> None:
        """Send SIGCONT to a stopped process, once, if it still runs."""
        if SIGNALS[self.fault.kind] is not signal.SIGSTOP:
            return
        [hit] = self.hits
        if not self.is_continued and hit.child.pid == hit.pid and hit.child.running:
            hit.work = hit.child.work
            _send(hit.pid, signal.SIGCONT)
        self.is_continued = True

    def may_end(self, child: Child) -> bool:
        """Return whether it explains the end of an incarnation of `child`."""
        return self.fault.kind is not Kind.TERM and child in self.children

    def as_dict(self, began_s: float) -> dict[str, Any]:
        """Return it as JSON values; times are seconds after the faults began, or durations."""
        noticed = None if self.noticed_s is None else self.noticed_s - self.at_s
        back = None if self.back_s is None else self.back_s - self.at_s
        return self.fault.as_dict() | {
            "injected_s": self.at_s - began_s,
            "pids": [hit.pid for hit in self.hits],
            "noticed_after_s": noticed,
            "works_after_s": back,
            "throughput_before": self.usual,
            "throughput_after_s": self.steps_back_s,
        }


Disturb = Callable[[Fault, float], InjectedFault | None]
"""Begins a fault of the link, or of the node behind it, at this time; None: not now."""


class Injector:
    """Injects a schedule of faults into the children of a run."""

    def __init__(
        self,
        children: Children,
        faults: Sequence[Fault],
        disturb: Disturb | None = None,
    ) -> None:
        """Inject `faults`; `disturb` begins those of the link and the node behind it, if any."""
        self.waiting = list(faults)
        self.injected_faults: list[InjectedFault] = []
        self._children, self._disturb = children, disturb

    def tick(self, now_s: float, began_s: float) -> Iterator[InjectedFault]:
        """Update the injected faults, and inject the due ones; yields the new ones."""
        for injected in self.open:
            injected.update(now_s)
            if injected.fault.kind is Kind.STOP and now_s >= injected.at_s + injected.fault.stop_s:
                injected.mend(now_s)
        for fault in [each for each in self.waiting if began_s + each.at_s <= now_s]:
            begin = self._on_other if fault.role in (LINK, MACHINE) else self._on_processes
            injected_fault = begin(fault, now_s)
            if injected_fault is not None:
                self.waiting.remove(fault)
                self.injected_faults.append(injected_fault)
                yield injected_fault

    def _on_processes(self, fault: Fault, now_s: float) -> InjectedFault | None:
        """Send a signal; None while the fault has to be delayed."""
        hits = self._ready_targets(fault)
        pid = _pid(fault, hits) if hits else None
        if pid is None:
            return None
        for hit in hits:
            hit.child.expect_failure()
        _send(pid, SIGNALS[fault.kind])
        return InjectedFault(fault, now_s, hits)

    def _on_other(self, fault: Fault, now_s: float) -> InjectedFault | None:
        """Disturb the link or the other node, unless one has not recovered from the last time."""
        busy = any(each.fault.role in (LINK, MACHINE) for each in self.open)
        if self._disturb is None or busy:
            return None
        return self._disturb(fault, now_s)

    @property
    def open(self) -> list[InjectedFault]:
        """Injected faults that are not over."""
        return [injected for injected in self.injected_faults if not injected.over]

    def release(self) -> None:
        """Continue all stopped processes, and mend the link."""
        for injected in self.open:
            injected.mend(time.monotonic())

    def _ready_targets(self, fault: Fault) -> list[Target]:
        """Return the targets of a fault; empty while it has to be delayed."""
        children = [child for child in self._targets_of(fault) if not child.given_up]
        ready = all(map(self._is_ready, children))
        return [self._target(child) for child in children] if ready else []

    def _targets_of(self, fault: Fault) -> list[Child]:
        if fault.role == SERVER:
            return self._children.all
        if fault.role == BRIDGE:
            return [] if self._children.bridge is None else [self._children.bridge]
        if fault.role == LEARNER:
            return [self._children.learners[fault.rank]]
        return [self._children.simulators_of(fault.rank)[fault.worker]]

    def _is_ready(self, child: Child) -> bool:
        """Return whether a child's process works, and has recovered from the last fault."""
        there = child.row["pid"] == child.pid and child.running
        begun = child.has_begun and child.row.phase is not Phase.BOOT
        busy = any(child in injected.children for injected in self.open)
        return there and begun and not busy

    def _target(self, child: Child) -> Target:
        assert child.pid is not None
        return Target(child, child.incarnation, child.work, child.pid)


def _pid(fault: Fault, hits: list[Target]) -> int | None:
    """Return the process that gets the signal; None if it does not run."""
    return server_of(hits[0].pid) if fault.role == SERVER else hits[0].pid


def _send(pid: int, number: signal.Signals) -> None:
    """Send a signal, unless its target has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
