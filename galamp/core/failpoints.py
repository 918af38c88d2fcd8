"""Named points at which a process can be made to die, to prove that nothing suffers from it.

    GALAMP_CRASH_AT="slots.filled:3@learner 1" galamp run ...

kills learner 1 with SIGKILL the third time that it has filled a slot; without `@...` every process
that gets there dies. An order is for the first life of a process only: whoever takes the place of
a dead one calls `disarm`. While nothing is ordered a point costs a call and a comparison.

    worker: as_role(title) --> armed, if the order is for this process --> reach(point) --> SIGKILL
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from galamp.core.errors import UserError, did_you_mean

VARIABLE: Final = "GALAMP_CRASH_AT"

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "slots.odd": "the sequence is odd, the payload as before",
        "slots.filled": "the payload is whole, the header that of the former publication",
        "slots.headed": "payload and header are whole, the sequence is odd",
        "slots.even": "the slot is whole, its number not yet published",
        "slots.published": "readers find it, nobody was told",
        "mailbox.written": "the token is whole, not yet counted",
        "mailbox.counted": "the token is sent, its receiver not yet woken",
        "journal.written": "the entry is whole, not yet counted",
        "journal.counted": "the publication is on record, no token was sent",
        "episodes.written": "the episode is whole, not yet counted",
        "episodes.counted": "the episode is counted, later ones of the same step are not",
        "rollouts.called": "a simulator is called to a row, by no ticket yet",
        "rollouts.acted": "the actions are there, nobody was sent them",
        "rollouts.sent": "one simulator was sent its actions, others were not",
        "rollouts.outcome": "the outcome of a step is written, the observations after it are not",
        "rollouts.written": "a row of observations is written, not yet committed",
        "rollouts.committed": "a row is committed, a call to it perhaps not yet answered",
        "rollouts.joined": "a simulator takes part, its learner was not woken",
        "simulator.stepped": "the games have gone on, nothing of it is written",
        "collector.half": "half of a rollout is collected",
        "learner.updated": "the parameters have changed, nobody was told",
        "learner.mixed": "a round of gossip is over, the turn not yet counted",
        "learner.counted": "the turn is counted, its state not yet saved",
        "checkpoint.file": "one more of the files but the manifest is on the disk",
        "checkpoint.files": "all files are on the disk but the manifest",
        "checkpoint.manifest": "all files are on the disk, none read back",
        "checkpoint.verified": "all is read back, under its temporary name",
        "checkpoint.renamed": "it has its name, which the disk may not have yet",
        "checkpoint.saved": "it would survive power loss, no link points to it",
        "checkpoint.pointed": "a link points to it: `latest` first, then perhaps `best`",
    }
)
"""What each point leaves behind in memory or on disk."""

_ORDER = re.compile(
    r"(?P<point>[a-z.]+):(?P<time>[1-9]\d{0,8})"
    r"(?:@(?P<role>supervisor|learner \d+|simulator \d+\.\d+))?"
)
_EXAMPLE = f"{VARIABLE}='slots.filled:3@learner 1'"


class Order(NamedTuple):
    """Die the `time`-th time that `point` is reached; a process of another role never does."""

    point: str
    time: int
    role: str | None


_order: Order | None = None
_reached = 0


def as_role(title: str) -> None:
    """Say which process this is (`supervisor`, `learner 0`, ...), and take what is ordered for it.

    Raises:
        UserError: the environment orders what there is not.
    """
    arm(os.environ.get(VARIABLE), title)


def arm(text: str | None, role: str | None = None) -> None:
    """Take an order such as `slots.filled:3@learner 1`, unless it is for another role.

    Raises:
        UserError: it is not of that form, or there is no such point.
    """
    global _order, _reached
    order = _parse(text) if text else None
    _order = order if order is not None and order.role in (None, role) else None
    _reached = 0


def disarm() -> None:
    """Cancel the order: a process that takes the place of a dead one has nothing to repeat."""
    arm(None)


def reach(point: str) -> None:
    """Mark that the process is at `point`; it ends here if that is what was ordered."""
    if _order is not None:
        _count(_order, point)


def _count(order: Order, point: str) -> None:
    global _reached
    assert point in POINTS, f"{point} is not among the declared points"
    if point == order.point:
        _reached += 1
        if _reached == order.time:
            os.kill(os.getpid(), signal.SIGKILL)


def _parse(text: str) -> Order:
    found = _ORDER.fullmatch(text)
    if found is None:
        raise UserError(f"{VARIABLE}={text!r}: expected point:time or point:time@role: {_EXAMPLE}")
    point, time, role = found["point"], int(found["time"]), found["role"]
    if point not in POINTS:
        raise UserError(f"{VARIABLE}={text!r}: no such point{did_you_mean(point, POINTS)}")
    return Order(point, time, role)
