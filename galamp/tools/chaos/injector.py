"""Faults made real: signals to a run's own processes, and what becomes of those they hit.

    Fault, due --Injector--> signal --> Strike: noticed? works again?

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
from galamp.supervision.child import Post
from galamp.supervision.children import Crew
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
class Hit:
    """One process that a fault has hit: the life it was in, and what its place had done by then."""

    post: Post
    life: int
    work: int
    pid: int
    replaced: bool = False

    def look(self) -> None:
        """See whether it has ended; work counts from then on."""
        if not self.replaced and self.post.life > self.life:
            self.replaced, self.work = True, self.post.work

    @property
    def works(self) -> bool:
        """Whether its place has done something since."""
        return self.post.worker is not None and self.post.work > self.work


@dataclass
class Strike:
    """A fault that was injected, and what came of it; times are on the supervisor's clock."""

    fault: Fault
    at_s: float
    hits: list[Hit]
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
        return {hit.post.rank for hit in self.hits}

    @property
    def posts(self) -> list[Post]:
        """The places that it hit."""
        return [hit.post for hit in self.hits]

    def may_end(self, post: Post) -> bool:
        """Whether it accounts for the end of a life at `post`."""
        return self.fault.kind is not Kind.TERM and post in self.posts

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

    def __init__(self, crew: Crew, faults: Sequence[Fault]) -> None:
        self.waiting = list(faults)
        self.strikes: list[Strike] = []
        self._crew = crew

    def tick(self, now_s: float, began_s: float) -> Iterator[Strike]:
        """Follow what was injected, and inject what is due; yields what is new."""
        for strike in self.open:
            strike.look(now_s)
            if strike.fault.kind is Kind.STOP and now_s >= strike.at_s + strike.fault.stop_s:
                _let_go(strike)
        for fault in [each for each in self.waiting if began_s + each.at_s <= now_s]:
            hits = self._hits(fault)
            pid = _pid(fault, hits) if hits else None
            if pid is not None:
                self.waiting.remove(fault)
                self.strikes.append(Strike(fault, now_s, hits))
                for hit in hits:
                    hit.post.excuse()
                _send(pid, SIGNALS[fault.kind])
                yield self.strikes[-1]

    @property
    def open(self) -> list[Strike]:
        """Those that are not over."""
        return [strike for strike in self.strikes if not strike.over]

    def release(self) -> None:
        """Let everyone go on who was stopped."""
        for strike in self.open:
            if SIGNALS[strike.fault.kind] is signal.SIGSTOP:
                _let_go(strike)

    def _hits(self, fault: Fault) -> list[Hit]:
        """Return whom a fault would hit now; nobody where it has to be put off."""
        posts = [post for post in self._aimed_at(fault) if not post.given_up]
        ready = all(map(self._is_ready, posts))
        return [self._hit(post) for post in posts] if ready else []

    def _aimed_at(self, fault: Fault) -> list[Post]:
        if fault.role == SERVER:
            return self._crew.posts
        if fault.role == LEARNER:
            return [self._crew.learners[fault.rank]]
        return [self._crew.simulators_of(fault.rank)[fault.worker]]

    def _is_ready(self, post: Post) -> bool:
        """Whether a place is filled by one who works, and has got over the last fault."""
        worker = post.worker
        there = worker is not None and post.row["pid"] == worker.pid and worker.running
        busy = any(post in strike.posts for strike in self.open)
        return there and post.row.phase is not Phase.BOOT and not busy

    def _hit(self, post: Post) -> Hit:
        assert post.worker is not None
        return Hit(post, post.life, post.work, post.worker.pid)


def _pid(fault: Fault, hits: list[Hit]) -> int | None:
    """Return the process that gets the signal; None if it is not there."""
    return server_of(hits[0].pid) if fault.role == SERVER else hits[0].pid


def _send(pid: int, number: signal.Signals) -> None:
    """Send a signal, unless its target has ended by itself this very moment."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _let_go(strike: Strike) -> None:
    """Tell a stopped process to go on, once, if it is still that one."""
    [hit] = strike.hits
    worker = hit.post.worker
    if not strike.going_on and worker is not None and worker.pid == hit.pid and worker.running:
        hit.work = hit.post.work
        _send(hit.pid, signal.SIGCONT)
    strike.going_on = True
