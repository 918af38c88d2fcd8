"""What the handshake's processes share, what each knows, and the rules that they play by.

`cells` stand for what a simulator writes: (row, incarnation), or `HALF` while it is at it. The
observation of a rollout's last row is also that of the next one's first row; both are written in
the same steps, which leaves them `HALF` for longer than in truth. Outcome and next observation
likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

LEARNER, SIMULATOR, SUPERVISOR, SECOND_SIMULATOR = range(4)
NUM_SLOTS = 2
Stamp = tuple[int, int]
UNWRITTEN: Stamp = (-2, -1)
HALF: Stamp = (-1, -1)
Cells = dict[tuple[str, int, int], int]
"""Where the observation or outcome of a step in a slot lies among `cells`."""


class Memory(NamedTuple):
    cells: tuple[Stamp, ...]
    ticket: int = 0
    ticket_row: int = 0
    sent: int = 0
    committed: int = 0
    joined: int = 0
    alive: int = 1
    incarnation: int = 0


class Learner(NamedTuple):
    at: str = "write ticket row"
    rollout: int = -1
    step: int = 0
    present: bool = False
    valid_mask: int = 0
    """Observations of this rollout that it may use; of outcomes one less."""
    used: int = 0
    """How many of all these the update has used so far."""
    incarnation: int = 0
    """Of the simulator that it deals with, as far as it knows."""
    wrote: int | None = None
    """No part of the protocol: the incarnation that wrote what has been used so far."""
    end: int = 0
    """The rollout that it does not play any more."""


class Simulator(NamedTuple):
    at: str = "boot"
    incarnation: int = 0
    seen: int = 0
    """The last ticket that it has accepted."""
    row: int | None = None
    """Whose actions it waits for."""
    joining: bool = False


class Supervisor(NamedTuple):
    at: str = "watch"


@dataclass(frozen=True)
class Rules:
    """How the protocol is played; every default is how it is sound."""

    steps: int = 1
    rollouts: int = 3
    crashes: int = 2
    patient: bool = False
    """The learner waits for ever for a simulator that is alive; else it may leave it out."""
    acknowledged: bool = True
    """It counts a simulator present only if that has acknowledged the present ticket."""
    ahead: int = 1
    """It invites to the rollout so many after the present one."""
    row_first: bool = True
    """It writes the row of a ticket before the ticket."""
    watches: Literal["incarnation since invitation", "incarnation since joining", "alive"] = (
        "incarnation since invitation"
    )
    """By what it knows that the simulator it deals with is no more."""
    remembers: Literal["what was joined", "nothing", "the present ticket"] = "what was joined"
    """Which ticket a new incarnation does not accept any more."""
    commits_first: bool = False
    """The simulator commits a row before it is whole."""
    reaped_first: bool = True
    """A new incarnation starts when the former has ended, not when it is given up."""
    learner_resumes: Literal["never", "beyond", "at zero", "at zero, nothing sent"] = "never"
    """Whether the learner crashes, too, and from which row its next one goes on: beyond all rows
    that anyone has come to, or row 0, with or without resetting what was sent."""


def cells_of(rules: Rules) -> Cells:
    kinds = (("observation", rules.steps + 1), ("outcome", rules.steps))
    places = [(kind, k, step) for k in range(NUM_SLOTS) for kind, n in kinds for step in range(n)]
    return {place: at for at, place in enumerate(places)}
