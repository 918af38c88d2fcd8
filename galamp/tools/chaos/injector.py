"""Faults made real: signals to a run's own processes, and what becomes of those they hit.

    Fault, due --Injector--> signal --> InjectedFault: noticed? works again?

Runs in the supervisor, which alone knows who is whose. A fault whose target is not there, or has
not yet got over its last one, is put off until it has.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from galamp.memory.status import Phase
from galamp.supervision.child import Child
from galamp.supervision.children import Children
from galamp.tools.chaos.procfs import server_of
from galamp.tools.chaos.recovery import Span
from galamp.tools.chaos.schedule import LEARNER, SERVER, Fault, Kind

SIGNALS = {
    Kind.KILL: signal.SIGKILL,
    Kind.STOP: signal.SIGSTOP,
    Kind.HANG: signal.SIGSTOP,
    Kind.SEGV: signal.SIGSEGV,
    Kind.ABRT: signal.SIGABRT,
    Kind.TERM: signal.SIGTERM,
}


@dataclass
class Target:
    """One process that a fault has hit: the life it was in, and what its place had done by then."""

    child: Child
    incarnation: int
    work: int
    pid: int
    replaced: bool = False

    def look(self) -> None:
        """See whether it has ended; work counts from then on."""
        if not self.replaced and self.child.incarnation > self.incarnation:
            self.replaced, self.work = True, self.child.work

    @property
    def works(self) -> bool:
        """Whether its place has done something since."""
        return self.child.process is not None and self.child.work > self.work


@dataclass
class InjectedFault:
    """A fault that was injected, and what came of it; times are on the supervisor's clock."""

    fault: Fault
    at_s: float
    hits: list[Target]
    going_on: bool = False
    """Whether a stopped process was told to go on."""
    noticed_s: float | None = None
    back_s: float | None = None
    usual: float | None = None
    """Agent steps per second before it; known at the end, as is the next."""
    steps_back_s: float | None = None
    """Seconds until throughput was back, None if it never was."""

    def look(self, now_s: float) -> None:
        """See how far they have come."""
        for hit in self.hits:
            hit.look()
        if self.noticed_s is None and all(hit.replaced for hit in self.hits):
            self.noticed_s = now_s
        if self._may_work and all(hit.works for hit in self.hits):
            self.back_s = now_s

    @property
    def _may_work(self) -> bool:
        """Whether work that is seen is work after the fault."""
        if self.fault.kind.deadly:
            return self.noticed_s is not None
        return self.fault.kind is Kind.TERM or self.going_on or self.noticed_s is not None

    @property
    def over(self) -> bool:
        """Whether all that it hit work again."""
        return self.back_s is not None

    @property
    def since_s(self) -> float:
        """When it began to be felt as what it is: of a hang, when the limit has ended it."""
        hang = self.fault.kind is Kind.HANG
        return self.noticed_s if hang and self.noticed_s is not None else self.at_s

    @property
    def span(self) -> Span:
        """From the signal until work goes on."""
        return Span(self.at_s, self.back_s if self.back_s is not None else float("inf"))

    @property
    def ranks(self) -> set[int]:
        """Whose groups it hit: a learner and its simulators wait for one another."""
        return {hit.child.rank for hit in self.hits}

    @property
    def children(self) -> list[Child]:
        """The places that it hit."""
        return [hit.child for hit in self.hits]

    def may_end(self, child: Child) -> bool:
        """Whether it accounts for the end of a life at `child`."""
        return self.fault.kind is not Kind.TERM and child in self.children

    def as_dict(self, began_s: float) -> dict[str, Any]:
        """Return it as plain values; times are seconds after the faults began, or durations."""
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


class Injector:
    """Brings a schedule of faults upon a crew."""

    def __init__(self, children: Children, faults: Sequence[Fault]) -> None:
        self.waiting = list(faults)
        self.injected_faults: list[InjectedFault] = []
        self._children = children

    def tick(self, now_s: float, began_s: float) -> Iterator[InjectedFault]:
        """Follow what was injected, and inject what is due; yields what is new."""
        for injected in self.open:
            injected.look(now_s)
            if injected.fault.kind is Kind.STOP and now_s >= injected.at_s + injected.fault.stop_s:
                _let_go(injected)
        for fault in [each for each in self.waiting if began_s + each.at_s <= now_s]:
            hits = self._hits(fault)
            pid = _pid(fault, hits) if hits else None
            if pid is not None:
                self.waiting.remove(fault)
                self.injected_faults.append(InjectedFault(fault, now_s, hits))
                for hit in hits:
                    hit.child.expect_failure()
                _send(pid, SIGNALS[fault.kind])
                yield self.injected_faults[-1]

    @property
    def open(self) -> list[InjectedFault]:
        """Those that are not over."""
        return [injected for injected in self.injected_faults if not injected.over]

    def release(self) -> None:
        """Let everyone go on who was stopped."""
        for injected in self.open:
            if SIGNALS[injected.fault.kind] is signal.SIGSTOP:
                _let_go(injected)

    def _hits(self, fault: Fault) -> list[Target]:
        """Return whom a fault would hit now; nobody where it has to be put off."""
        children = [child for child in self._aimed_at(fault) if not child.given_up]
        ready = all(map(self._is_ready, children))
        return [self._hit(child) for child in children] if ready else []

    def _aimed_at(self, fault: Fault) -> list[Child]:
        if fault.role == SERVER:
            return self._children.all
        if fault.role == LEARNER:
            return [self._children.learners[fault.rank]]
        return [self._children.simulators_of(fault.rank)[fault.worker]]

    def _is_ready(self, child: Child) -> bool:
        """Whether a place is filled by one who works, and has got over the last fault."""
        worker = child.process
        there = worker is not None and child.row["pid"] == worker.pid and worker.running
        busy = any(child in injected.children for injected in self.open)
        return there and child.row.phase is not Phase.BOOT and not busy

    def _hit(self, child: Child) -> Target:
        assert child.process is not None
        return Target(child, child.incarnation, child.work, child.process.pid)


def _pid(fault: Fault, hits: list[Target]) -> int | None:
    """Return the process that gets the signal; None if it is not there."""
    return server_of(hits[0].pid) if fault.role == SERVER else hits[0].pid


def _send(pid: int, number: signal.Signals) -> None:
    """Send a signal, unless its target has ended by itself this very moment."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _let_go(injected: InjectedFault) -> None:
    """Tell a stopped process to go on, once, if it is still that one."""
    [hit] = injected.hits
    worker = hit.child.process
    if not injected.going_on and worker is not None and worker.pid == hit.pid and worker.running:
        hit.work = hit.child.work
        _send(hit.pid, signal.SIGCONT)
    injected.going_on = True
