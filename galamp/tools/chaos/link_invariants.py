"""Invariants of a run on two machines under faults: a class each, fed with plain values.

    values observed of the link and of the other node --observe--> Invariant

As in `invariants`, nothing here reads a clock, a process or the run itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from galamp.tools.chaos.invariants import GROWTH, GROWTH_BYTES, Invariant

LEASE_S = 3.0
"""What is promised, whatever the transports are set to: a cut is noticed within so long."""
NOTICED_GRACE_S = 2.0
"""What a busy machine may need beyond the lease."""
MIXES_S = 10.0
"""Over a link that is whole, a vector comes at least so often: as long after a cut, or a start."""


RETURNS_S, LOAD_S = 10.0, 30.0
"""A machine mixes again so soon after its start; and its bridge is up, at the latest."""
SOCKETS = 6
"""Connections of a bridge that may be about to begin or to end."""
WIRE_SHARE, TEXT_BYTES_PER_S = 1.02, 2**14
"""Bytes that go to the other machine, as a share of the vectors' own; and those of all that is no
vector, as who is there: it is the same for small networks, of which it would be a large share."""
FORCED_S, TEXT_BYTES = 3.0, 2**12
"""How long is waited for a moment at which no vector is under way: since the last look nothing but
a text has moved, of at most so many bytes."""


class CutNoticed(Invariant):
    """While nothing passes, the other node's learners do not count as there, after the lease."""

    name = "I9 a cut link is noticed"

    def __init__(self) -> None:
        super().__init__()
        self.bound_s = LEASE_S + NOTICED_GRACE_S
        self._cut_s = self.longest_s = 0.0

    def observe(self, passed_s: float, *, cut: bool, present: bool, hit: bool) -> None:
        """Check it; `hit`: a fault of the bridge is not over, so that nobody is there to notice."""
        self._cut_s = self._cut_s + passed_s if cut and not hit else 0.0
        if present:
            self.longest_s = max(self.longest_s, self._cut_s)
        late = present and self._cut_s > self.bound_s
        expected = f"the other machine gone within {self.bound_s:g} s of a cut"
        self.hold(not late, expected, f"there after {self._cut_s:.1f} s")

    @property
    def remark(self) -> str:
        """Return the longest time until one was noticed, or was over before."""
        return (
            f"longest time until one was noticed {self.longest_s:.2f} s, bound {self.bound_s:g} s"
        )


class VectorsArrive(Invariant):
    """Over a link that is whole, the other node's vectors keep coming: it has healed by itself."""

    name = "I10 machines mix while their link is whole"

    def __init__(self, busy: float = 1.0) -> None:
        super().__init__()
        self.bound_s, self.longest_s = MIXES_S * busy, 0.0
        self._without_s, self._received = 0.0, -1

    def observe(self, passed_s: float, *, whole: bool, received: int, hit: bool) -> None:
        """Check that `received` grows where the link is whole, and the bridge was not hit."""
        counts = whole and not hit and received == self._received
        self._without_s = self._without_s + passed_s if counts else 0.0
        self._received = received
        self.longest_s = max(self.longest_s, self._without_s)
        expected = f"a vector of the other machine within {self.bound_s:.1f} s"
        self.hold(self._without_s <= self.bound_s, expected, f"none for {self._without_s:.1f} s")

    @property
    def remark(self) -> str:
        """Return the longest time without one."""
        return f"longest time without a vector {self.longest_s:.2f} s, bound {self.bound_s:.1f} s"


class MachineReturns(Invariant):
    """A machine that was killed mixes again, both ways, soon after it was started again.

    On processors that are free within `RETURNS_S` of its start. Else loading has a limit of its
    own, and the bound, like that one multiplied by `busy`, counts from when its bridge is up.
    """

    name = "I14 a machine that was killed mixes again"

    def __init__(self, busy: float) -> None:
        super().__init__()
        self._free, self._load_s, self.bound_s = busy == 1.0, LOAD_S * busy, RETURNS_S * busy
        self._started_s = self._up_s = 0.0
        self.longest_s = self.longest_up_s = 0.0
        """Longest time from a start, and from when a bridge was up, until both had a vector."""

    def observe(self, passed_s: float, *, returns: bool, up: bool, hit: bool) -> None:
        """Check a machine that `returns`: it was started, and not both nodes have a new vector.

        Args:
            passed_s: time since the last check.
            returns: whether that is so.
            up: whether its bridge runs.
            hit: a fault of this node's bridge is not over, so that nobody is there to mix with.
        """
        if not returns or hit:
            self._started_s = self._up_s = 0.0
            return
        self._started_s += passed_s
        self._up_s += passed_s * up
        self.longest_s = max(self.longest_s, self._started_s)
        self.longest_up_s = max(self.longest_up_s, self._up_s)
        self._within(self._up_s, self.bound_s, "mixes both ways", "its bridge being up")
        self._within(self._started_s - self._up_s, self._load_s, "has a bridge", "its start")
        if self._free:
            self._within(self._started_s, RETURNS_S, "mixes both ways", "its start")

    def _within(self, found_s: float, bound_s: float, what: str, since: str) -> None:
        self.hold(
            found_s <= bound_s, f"{what} within {bound_s:.1f} s of {since}", f"{found_s:.1f} s"
        )

    @property
    def remark(self) -> str:
        """Return the longest times."""
        return (
            f"longest from its start {self.longest_s:.2f} s, bound "
            f"{f'{RETURNS_S:.1f} s' if self._free else 'none: the processors are shared'};\n"
            f"  from its bridge being up {self.longest_up_s:.2f} s, bound {self.bound_s:.1f} s"
        )


class NoneRefused(Invariant):
    """Nothing that arrives is damaged, of a wrong learner, or of another run."""

    name = "I11 nothing that arrives is refused"

    def observe(self, received: int, refused: int) -> None:
        """Check how many messages were taken and refused."""
        self.hold(refused == 0, "0 refused", f"{refused} refused, {received} vectors taken")
        self.checks = received


class OtherRuns(Invariant):
    """The other node, unless it was killed on purpose, and the relay between both keep running."""

    name = "I12 the other machine keeps running"

    def observe(self, stopped: str) -> None:
        """Check why it has `stopped`; empty if it runs."""
        self.hold(not stopped, "it runs, as no fault hit it", stopped)


@dataclass
class Held:
    """What processes of one role hold: at the first check, the most, and now.

    `room_bytes` is what such a process may hold for a while, as vectors that are under way.
    """

    room_bytes: int
    descriptors: list[int]
    own_bytes: list[int]
    processes: set[int]

    def add(self, pid: int, descriptors: int, own_bytes: int) -> None:
        """Take what the role's present process holds."""
        self.processes.add(pid)
        for found, now in ((self.descriptors, descriptors), (self.own_bytes, own_bytes)):
            found[1:] = max(found[1], now), now

    def __str__(self) -> str:
        mib = [round(each / 2**20) for each in self.own_bytes]
        files, memory = (f"{a} to {c}, at most {b}" for a, b, c in (self.descriptors, mib))
        return f"{len(self.processes)} in turn: open files {files}; MiB {memory}"


class BothFlat(Invariant):
    """Neither bridge, nor the other node's supervisor, holds more than its role's first process.

    That is weighed after the warm-up. One that was started again counts as the one before: what
    grows from start to start is a leak as well.
    """

    name = "I13 bridges and the other machine leak nothing"

    def __init__(self) -> None:
        super().__init__()
        self.roles: dict[str, Held] = {}

    def observe(
        self, role: str, pid: int, descriptors: int, own_bytes: int, room_bytes: int
    ) -> None:
        """Check open files and memory of the process that has this role now; see `Held`."""
        new = Held(room_bytes, [descriptors] * 3, [own_bytes] * 3, {pid})
        held = self.roles.setdefault(role, new)
        held.add(pid, descriptors, own_bytes)
        most = held.descriptors[0] + SOCKETS
        self.hold(descriptors <= most, f"{role}: at most {most} open files", str(descriptors))
        most = round((1 + GROWTH) * held.own_bytes[0] + GROWTH_BYTES) + held.room_bytes
        expected = f"{role}: at most {most / 2**20:.0f} MiB"
        self.hold(own_bytes <= most, expected, f"{own_bytes / 2**20:.0f} MiB")

    @property
    def remark(self) -> str:
        """Return a line per role: the first values, the largest and the last."""
        return "\n  ".join(f"{role}, {held}" for role, held in self.roles.items())


class WireBytes(Invariant):
    """While nothing is disturbed, little more goes to the other node than the vectors themselves.

    Bytes and vectors are compared from one moment at which no vector is under way to another; where
    learners leave no such moment, from one end of `FORCED_S` to the next. They are those of this
    node's TCP connections, without what TCP and IP add themselves.
    """

    name = "I15 bytes on the wire"

    def __init__(self, vector_bytes: int, learners: int) -> None:
        super().__init__()
        self._vector_bytes, self._learners = vector_bytes, learners
        self._text_bytes = max(TEXT_BYTES, vector_bytes // 100)
        self.bytes = self.vectors = self.forced = 0
        self.calm_s = 0.0
        self._last: tuple[int, int] | None = None
        self._base: tuple[int, int] | None = None
        self._since_s = 0.0

    def observe(self, passed_s: float, *, calm: bool, forwarded: int, sent: int) -> None:
        """Check the totals of `forwarded` bytes and `sent` vectors, `passed_s` after the last."""
        now, last = (forwarded, sent), self._last
        self._last = now if calm else None
        if not calm or last is None:
            self._base, self._since_s = None, 0.0
            return
        moves = sent != last[1] or forwarded - last[0] > self._text_bytes
        self._since_s += passed_s
        if moves and self._since_s < FORCED_S:
            return
        self.forced += moves
        if self._base is not None:
            self._compare(forwarded - self._base[0], sent - self._base[1])
        self._base, self._since_s = now, 0.0

    def _compare(self, forwarded: int, sent: int) -> None:
        self.calm_s += self._since_s
        self.bytes += forwarded
        self.vectors += sent
        most = WIRE_SHARE * self.payload + TEXT_BYTES_PER_S * self.calm_s
        most += self._room * self._vector_bytes
        expected = f"at most {most:,.0f} for {self.vectors:,} vectors of {self._vector_bytes:,}"
        self.hold(self.bytes <= most, expected, f"{self.bytes:,}")

    @property
    def _room(self) -> int:
        """Vectors that may be under way at both ends of what is compared."""
        return 1 + self._learners * (1 + self.forced)

    @property
    def payload(self) -> int:
        """Bytes of the vectors that were sent."""
        return self.vectors * self._vector_bytes

    @property
    def remark(self) -> str:
        """Return their ratio."""
        if not self.vectors:
            return "not measured: no vector was sent while nothing was disturbed"
        return (
            f"{self.bytes / self.payload:.4f} of the vectors' own, of {self.vectors:,} in "
            f"{self.calm_s:.0f} s; bound {WIRE_SHARE:g}, {TEXT_BYTES_PER_S // 1024} KiB/s of other "
            f"messages and {self._room} vectors"
        )


class OtherWhole(Invariant):
    """The other node has had no failures, and both records tell of the same vectors."""

    name = "both records, audited afterwards"

    def observe(self, vectors: int, wrong: list[str]) -> None:
        """Check the audit of both, and what the other node has reported."""
        for each in wrong:
            self.hold(False, "no failure, and nothing taken that was not published", each)
        self.checks += vectors
