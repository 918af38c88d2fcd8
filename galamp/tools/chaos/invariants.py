"""Invariants of a run under faults: one class each, fed with plain values.

    values observed of a run --observe--> Invariant: checks counted, the first breach kept

Nothing here reads a clock, a process or the run itself. `passed_s` is the time since the last check
in which the supervisor was awake: a pause of the whole machine does not count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from galamp.gossip.mixing import STALENESS_TIMEOUT_S
from galamp.supervision.children import ABSENT_TIMEOUT_S

GRACE_S = 1.0
"""Grace period in which an ended process may be unnoticed."""
LEFT_GRACE_S = 10.0
"""Grace period for ended processes, and for processes that a simulator has left behind."""
MIN_GAP_S, USUAL_GAPS = 2 * ABSENT_TIMEOUT_S + 1.0, 10.0
"""A learner whose own processes were not hit makes a turn within max(MIN_GAP_S, USUAL_GAPS x usual
turn): it may have waited for one peer until that counted as absent, then for another."""
PAUSE_S = 2.0
"""Longest pause of a survivor, beyond a usual turn, while another machine dies or is cut off."""
GROWTH, GROWTH_BYTES = 0.05, 20 * 2**20
"""Allowed growth of the supervisor's memory: this share, and this many bytes."""


@dataclass(frozen=True)
class Breach:
    """How an invariant was broken."""

    name: str
    expected: str
    found: str


class Invariant:
    """A condition that must hold, the number of its checks, and its first breach."""

    name: ClassVar[str] = ""

    def __init__(self) -> None:
        self.checks = 0
        self.breach: Breach | None = None

    def hold(self, holds: bool, expected: str, found: str) -> None:
        """Count a check; keep the breach if it is the first."""
        self.checks += 1
        if not holds and self.breach is None:
            self.breach = Breach(self.name, expected, found)

    @property
    def remark(self) -> str:
        """Return additional information for the report."""
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        broken = vars(self.breach) if self.breach else None
        return {"name": self.name, "checks": self.checks, "broken": broken, "remark": self.remark}


class NoTornReads(Invariant):
    """No copy that was accepted differs from what was published."""

    name = "I1 no torn copy is mixed"

    def observe(self, torn: int, verified: int) -> None:
        """Check copies: `torn` of `verified` were found torn under an intact sequence number."""
        self.hold(torn == 0, "0 torn copies", f"{torn} torn of {verified} verified")
        self.checks = verified


class MonotonicCounters(Invariant):
    """Counters continue where the previous incarnation has left them."""

    name = "I2 counters never fall"

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, int] = {}

    def observe(self, counters: Mapping[str, int]) -> None:
        """Check all counters, by name."""
        for name, value in counters.items():
            before = self._last.get(name, value)
            self.hold(value >= before, f"{name} at least {before:,}", f"{value:,}")
        self._last = dict(counters)


@dataclass(frozen=True)
class LearnerSeen:
    """Observation of a learner's group: the learner and its simulators."""

    turns: int
    expected: bool = True
    """Whether learner and simulators all run, none waiting for its restart."""
    hit: bool = False
    """Whether one of them was hit by a fault that is not over."""
    others_hit: bool = False
    away: bool = False
    """Whether a fault of the link or the other machine is open, and none of a process here."""
    untold: bool = False
    """Whether a fault of the link is: most of them tell nobody that the other machine is away."""


class LearnersProgress(Invariant):
    """Every running learner makes turns; those whose group was not hit do so soon."""

    name = "I3 learners make turns"

    def __init__(self, learners: int, limit_s: float, bound_s: float) -> None:
        """Use `limit_s` for learners of hit groups, and `bound_s` for the others."""
        super().__init__()
        self.limit_s, self.bound_s = limit_s, bound_s
        self.longest_s = 0.0
        """Longest gap of a learner whose group was not hit, while others were."""
        self._still_s, self._turns = [0.0] * learners, [-1] * learners
        self._hit = [False] * learners
        self.pause_s = self.untold_pause_s = math.inf
        """Bounds of pauses while only the other machine, or only the link, is disturbed."""
        self.longest_pause_s = self.longest_untold_s = 0.0
        self._pause_s, self._untold = [0.0] * learners, [False] * learners

    def observe(self, passed_s: float, seen: Sequence[LearnerSeen]) -> None:
        """Check every learner, in order of rank."""
        for rank, each in enumerate(seen):
            # A new fault, and its end, restart the clock.
            moved = each.turns != self._turns[rank] or each.hit != self._hit[rank]
            self._still_s[rank] = 0.0 if moved else self._still_s[rank] + passed_s * each.expected
            self._turns[rank], self._hit[rank] = each.turns, each.hit
            alone = each.expected and not each.hit
            if alone and each.others_hit:
                self.longest_s = max(self.longest_s, self._still_s[rank])
            same_cause = each.untold == self._untold[rank]
            self._untold[rank] = each.untold
            paused = alone and each.away and same_cause and not moved
            self._pause_s[rank] = self._pause_s[rank] + passed_s if paused else 0.0
            self._hold_pause(rank, each.untold)
            limit_s, found = self.bound_s if alone else self.limit_s, self._still_s[rank]
            expected = f"a turn of learner {rank} within {limit_s:.1f} s"
            self.hold(found <= limit_s, expected, f"none for {found:.1f} s")

    def _hold_pause(self, rank: int, untold: bool) -> None:
        found = self._pause_s[rank]
        if untold:
            bound_s, what = self.untold_pause_s, "the link's fault"
            self.longest_untold_s = max(self.longest_untold_s, found)
        else:
            bound_s, what = self.pause_s, "the other machine's end"
            self.longest_pause_s = max(self.longest_pause_s, found)
        if found > bound_s:
            expected = f"a turn of learner {rank} within {bound_s:.1f} s of {what}"
            self.hold(False, expected, f"none for {found:.1f} s")

    @property
    def remark(self) -> str:
        """Return how long learners of groups that were not hit stood still."""
        text = f"longest gap of those left alone {self.longest_s:.2f} s, bound {self.bound_s:.1f} s"
        if self.pause_s < math.inf:
            text += (
                f"\n  while the other machine was away {self.longest_pause_s:.2f} s, bound "
                f"{self.pause_s:.1f} s;"
                f"\n  while the link was disturbed {self.longest_untold_s:.2f} s, bound "
                f"{self.untold_pause_s:.1f} s"
            )
        return text


class FiniteParameters(Invariant):
    """All published parameters are finite."""

    name = "I4 all that is published is finite"

    def observe(self, rank: int, vector: Tensor) -> None:
        """Check a whole copy of learner `rank`'s publication."""
        bad = int((~vector.isfinite()).sum())
        expected = f"finite numbers in what learner {rank} published"
        self.hold(not bad, expected, f"{bad:,} of {vector.numel():,} are not")


class ExpectedProcesses(Invariant):
    """The expected processes run, and no others."""

    name = "I5 living children are the intended ones"

    def __init__(self) -> None:
        super().__init__()
        self.helpers = 0
        """Number of environments' own processes that were ended after their simulators."""
        self._odd_s: dict[str, float] = {}

    def observe(self, passed_s: float, odd: Collection[str], left: Collection[str] = ()) -> None:
        """Check the processes.

        Args:
            passed_s: time since the last check.
            odd: children whose process is missing, as text.
            left: processes of no child, and ended ones that were not reaped, as text.
        """
        seen = (*odd, *left)
        self._odd_s = {what: self._odd_s.get(what, -passed_s) + passed_s for what in seen}
        worst = max(odd, key=lambda what: self._odd_s[what], default="")
        expected = "one live process per child"
        self.hold(self._odd_s.get(worst, 0.0) <= GRACE_S, expected, worst)
        worst = max(left, key=lambda what: self._odd_s[what], default="")
        if self._odd_s.get(worst, 0.0) > LEFT_GRACE_S:
            self.hold(False, f"gone within {LEFT_GRACE_S:g} s", worst)

    @property
    def remark(self) -> str:
        """Return how many helper processes of environments were ended."""
        if not self.helpers:
            return ""
        return f"{self.helpers} processes that environments had started ended with their simulators"

    def end_of(self, title: str, hit: bool) -> None:
        """Check the end of an incarnation: a fault must have hit it."""
        self.hold(hit, f"{title} keeps running, as no fault hit it", "it ended")


class NoLeaks(Invariant):
    """The supervisor holds no more at the end than at the start, and no named shared memory."""

    name = "I6 nothing leaks"

    def __init__(self) -> None:
        super().__init__()
        self.descriptors, self.own_bytes = (-1, -1), (-1, -1)
        """At the first check, and now."""
        self.children_bytes = (-1, -1)

    def observe_descriptors(self, count: int) -> None:
        """Check the number of open files while every child runs."""
        first = self.descriptors[0] if self.descriptors[0] >= 0 else count
        self.descriptors = first, count
        self.hold(count == first, f"{first} open files, as after the warm-up", str(count))

    def observe_memory(self, own: int) -> None:
        """Check the bytes of the supervisor's own memory."""
        first = self.own_bytes[0] if self.own_bytes[0] >= 0 else own
        self.own_bytes = first, own
        limit = (1 + GROWTH) * first + GROWTH_BYTES
        expected = f"at most {limit / 2**20:.0f} MiB, {first / 2**20:.0f} MiB after the warm-up"
        self.hold(own <= limit, expected, f"{own / 2**20:.0f} MiB")

    def observe_children(self, pss: int) -> None:
        """Record the bytes of all children: only reported, since they depend on the environment."""
        first = self.children_bytes[0] if self.children_bytes[0] >= 0 else pss
        self.children_bytes = first, pss

    def observe_names(self, names: Collection[str]) -> None:
        """Check which named shared memory the run's processes hold."""
        self.hold(not names, "no name under /dev/shm", ", ".join(sorted(names)))

    @property
    def remark(self) -> str:
        """Return the first and last values."""
        own, children = (
            [f"{b / 2**20:.0f}" for b in p] for p in (self.own_bytes, self.children_bytes)
        )
        return (
            f"open files {self.descriptors[0]} to {self.descriptors[1]}; MiB: "
            f"supervisor {own[0]} to {own[1]}, children {children[0]} to {children[1]}"
        )


class CheckpointsVerify(Invariant):
    """The newest checkpoints are whole, every byte verified."""

    name = "I7 the newest two checkpoints verify"

    def observe(self, verified: int, damaged: Sequence[str]) -> None:
        """Check how many were read, and the errors of the damaged ones."""
        for _ in range(verified):
            self.hold(True, "", "")
        for wrong in damaged:
            self.hold(False, "a whole checkpoint", wrong)


class BoundedStaleness(Invariant):
    """A learner exceeds its staleness bound only without living peers, or after a wait for them.

    At the bound it waits until every living in-peer has news, for at most `STALENESS_TIMEOUT_S`.
    So while all of them are alive it continues without news at most once per
    `STALENESS_TIMEOUT_S`; and once more, for the round that was in progress when the last of them
    came back.
    """

    name = "I8 staleness stays within its bound"

    def __init__(self, learners: int, bound: int) -> None:
        super().__init__()
        self._bound, self.most = bound, 0
        self._alive_s: list[float | None] = [None] * learners
        self._excess = [0] * learners

    def observe(self, passed_s: float, staleness: Sequence[int], peers: Sequence[bool]) -> None:
        """Check each learner's staleness, and whether all its in-peers are alive."""
        for rank, (stale, alive) in enumerate(zip(staleness, peers, strict=True)):
            self.most = max(self.most, stale)
            excess, alive_s = max(0, stale - self._bound), self._alive_s[rank]
            if not alive:
                self._alive_s[rank] = None
                continue
            if alive_s is None:
                self._alive_s[rank], self._excess[rank] = 0.0, excess
                continue
            self._alive_s[rank] = alive_s + passed_s
            self._excess[rank] = min(self._excess[rank], excess)
            most = (
                self._bound
                + self._excess[rank]
                + 1
                + int((alive_s + passed_s) / STALENESS_TIMEOUT_S)
            )
            expected = f"staleness of learner {rank} at most {most}, its peers being alive"
            self.hold(stale <= most, expected, str(stale))

    @property
    def remark(self) -> str:
        """Return the largest staleness."""
        return f"bound {self._bound}; most, while an in-peer was away, {self.most}"


class Certified(Invariant):
    """No two learners were ever farther apart than their gossip record allows."""

    name = "certificate, audited afterwards"

    def observe(self, measurements: int, wrong: Sequence[str]) -> None:
        """Check the audit of the whole run."""
        self.checks += measurements
        for each in wrong:
            self.hold(False, "no distance above its certificate, and a whole record", each)
