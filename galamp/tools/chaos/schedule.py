"""Fault schedule: which fault hits which child and when, drawn from a seed in advance.

    seed, learners, workers, seconds --draw--> Fault, Fault, ...

Pure: no clock, no process. The same seed gives the same faults whatever the run does, and a longer
schedule starts like a shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from galamp.core.processes.titles import title_of

LEARNER, SIMULATOR, SERVER = "learner", "simulator", "server"
BRIDGE, LINK, MACHINE = "bridge", "link", "machine"
"""Only in runs on two machines: the process that talks to the other, the connection, the other."""
MIN_STOP_S, MAX_STOP_S = 0.1, 3.0
DISTURBED_S = 0.5, 8.0
"""Shortest and longest time of a link that is cut, late or narrow, below and above the lease; and
of a machine that is away."""
GAPS = (0.5, 1.5)
"""Minimum and maximum time between two faults, in multiples of the mean."""


class Kind(StrEnum):
    """Kind of a fault."""

    KILL = "KILL"
    STOP = "STOP"
    """Stopped, and continued a while later."""
    HANG = "HANG"
    """Stopped for good: only the hang limit ends it."""
    SEGV = "SEGV"
    ABRT = "ABRT"
    TERM = "TERM"
    """Ignored by children: a signal to the whole group is handled by the supervisor."""
    CUT = "CUT"
    """Of the link, like those that follow: nothing passes for a while, and nobody is told."""
    DELAY = "DELAY"
    """All that passes is late for a while."""
    NARROW = "NARROW"
    """Few bytes per second pass for a while."""
    RESET = "RESET"
    """All connections are broken once, and both ends are told."""

    @property
    def deadly(self) -> bool:
        """Whether the process is replaced."""
        return self in (Kind.KILL, Kind.HANG, Kind.SEGV, Kind.ABRT)


OF_LINK = (Kind.CUT, Kind.DELAY, Kind.NARROW, Kind.RESET)
OF_PROCESSES = tuple(kind for kind in Kind if kind not in OF_LINK)


@dataclass(frozen=True)
class Fault:
    """One fault, `at_s` seconds after the first possible time."""

    number: int
    at_s: float
    kind: Kind
    role: str
    rank: int = 0
    worker: int = 0
    stop_s: float = 0.0
    """Duration of a `STOP`, of a disturbance of the link, or of a machine's absence."""

    @property
    def target(self) -> str:
        """Its target as text: `learner 0`, `simulator 0.1`, `server`, `bridge`, `link`."""
        if self.role in (SERVER, BRIDGE, LINK, MACHINE):
            return self.role
        return title_of(self.role, self.rank, self.worker if self.role == SIMULATOR else None)

    @property
    def words(self) -> str:
        """The fault and its target as text."""
        if self.kind is Kind.STOP:
            return f"SIGSTOP for {self.stop_s:.1f} s to {self.target}"
        if self.role == LINK:
            time = f" for {self.stop_s:.1f} s" if self.stop_s else ""
            return f"link {_OF_LINK_IN_WORDS[self.kind]}{time}"
        if self.role == MACHINE:
            return f"SIGKILL to the other machine, which is started again after {self.stop_s:.1f} s"
        what = "SIGSTOP for good" if self.kind is Kind.HANG else f"SIG{self.kind}"
        return f"{what} to {self.target}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


_OF_LINK_IN_WORDS = {
    Kind.CUT: "cut",
    Kind.DELAY: "late",
    Kind.NARROW: "narrow",
    Kind.RESET: "reset",
}


def draw(
    seed: int,
    *,
    learners: int,
    workers: int,
    seconds: float,
    every_s: float,
    max_stop_s: float = MAX_STOP_S,
    link: bool = False,
) -> tuple[Fault, ...]:
    """Return the faults of `seconds`, about `every_s` apart, for learners of `workers` simulators.

    Every kind hits every role once before any does so again; the server is killed once in two such
    rounds, since all children end with it. With a `link` to another node, the bridge is hit by all
    kinds, too, the link by its own, and the other machine is killed, once in a round each.
    """
    dice = random.Random(seed)
    faults: list[Fault] = []
    at_s = every_s * dice.uniform(*GAPS)
    for number, (kind, role) in enumerate(_pairs(dice, link=link), 1):
        if at_s > seconds:
            break
        rank, worker = dice.randrange(learners), dice.randrange(workers)
        longest_s = min(MAX_STOP_S, max_stop_s)
        away = role in (LINK, MACHINE)
        stop_s = dice.uniform(*(DISTURBED_S if away else (MIN_STOP_S, longest_s)))
        lasts = kind is Kind.STOP or (away and kind is not Kind.RESET)
        faults.append(
            Fault(
                number,
                round(at_s, 3),
                kind,
                role,
                rank=rank if role in (LEARNER, SIMULATOR) else 0,
                worker=worker if role == SIMULATOR else 0,
                stop_s=round(stop_s, 3) if lasts else 0.0,
            )
        )
        at_s += every_s * dice.uniform(*GAPS)
    return tuple(faults)


def _pairs(dice: random.Random, *, link: bool) -> Iterator[tuple[Kind, str]]:
    """Yield pairs of kind and role for ever, in rounds of all pairs."""
    with_server = True
    roles = (LEARNER, SIMULATOR, BRIDGE) if link else (LEARNER, SIMULATOR)
    while True:
        deal = [(kind, role) for kind in OF_PROCESSES for role in roles]
        if link:
            deal += [*((kind, LINK) for kind in OF_LINK), (Kind.KILL, MACHINE)]
        dice.shuffle(deal)
        if with_server:
            deal.insert(dice.randrange(len(deal) + 1), (Kind.KILL, SERVER))
        yield from deal
        with_server = not with_server
