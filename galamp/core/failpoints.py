"""Failpoints: named points at which a process can be killed, to test that a run survives it.

    GALAMP_CRASH_AT="slots.filled:3@learner 1" galamp run ...

kills learner 1 with SIGKILL the third time that it has filled a slot; without `@...` every process
that reaches the point is killed. An order applies to incarnation 0 of a process only: a restarted
process calls `disarm`. Without an order a failpoint costs one call and one comparison.

    worker: as_role(title) --> armed, if the order is for this process --> hit(point) --> SIGKILL
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
        "slots.filled": "the payload is complete, the header is of the previous publication",
        "slots.headed": "payload and header are complete, the sequence is odd",
        "slots.even": "the slot is complete, its number is not published yet",
        "slots.published": "readers can find it, no token was sent",
        "mailbox.written": "the token is complete, not counted yet",
        "mailbox.counted": "the token is sent, its receiver is not woken yet",
        "ring.written": "the ring entry is complete, not counted yet",
        "ring.counted": "the publication is in the ring, no token was sent",
        "episodes.written": "the episode is complete, not counted yet",
        "episodes.counted": "the episode is counted, later ones of the same step are not",
        "rollouts.called": "the row of a call is written, its ticket is not",
        "rollouts.acted": "the actions are written, not sent to any simulator yet",
        "rollouts.sent": "the actions are sent to one simulator, not to the others",
        "rollouts.outcome": "the outcome of a step is written, its observations are not",
        "rollouts.written": "a row of observations is written, not committed yet",
        "rollouts.committed": "a row is committed, a call to it may not be answered yet",
        "rollouts.joined": "a simulator has answered a call, its learner is not woken yet",
        "simulator.stepped": "the environments were stepped, no result is written yet",
        "collector.half": "half of a rollout is collected",
        "learner.updated": "the parameters have changed, they are not published yet",
        "learner.mixed": "a gossip round is over, the turn is not counted yet",
        "learner.counted": "the turn is counted, its state is not saved yet",
        "bridge.taken": "a frame is found good, its learner's slots are as before",
        "bridge.mirrored": "a frame is published here, not noted as taken",
        "checkpoint.file": "one more file, not the manifest, is on the disk",
        "checkpoint.files": "all files but the manifest are on the disk",
        "checkpoint.manifest": "all files are on the disk, none is read back yet",
        "checkpoint.verified": "all files are read back, under the temporary name",
        "checkpoint.renamed": "it has its final name, which may not be on the disk yet",
        "checkpoint.saved": "it survives a power loss, no link points to it yet",
        "checkpoint.pointed": "a link points to it: `latest` first, then possibly `best`",
    }
)
"""Name -> state in memory or on disk when a process is killed at this point."""

_ORDER = re.compile(
    r"(?P<point>[a-z.]+):(?P<time>[1-9]\d{0,8})"
    r"(?:@(?P<role>supervisor|bridge|learner \d+|simulator \d+\.\d+))?"
)
_EXAMPLE = f"{VARIABLE}='slots.filled:3@learner 1'"


class Order(NamedTuple):
    """Order: kill the process of `role` (None: any) when it reaches `point` the `time`-th time."""

    point: str
    time: int
    role: str | None


_order: Order | None = None
_hits = 0


def as_role(title: str) -> None:
    """Set the role of this process (`supervisor`, `learner 0`, ...), and arm its order, if any.

    Raises:
        UserError: the environment variable is invalid.
    """
    arm(os.environ.get(VARIABLE), title)


def arm(text: str | None, role: str | None = None) -> None:
    """Arm an order such as `slots.filled:3@learner 1`, unless it is for another role.

    Raises:
        UserError: the text has a wrong form, or the point does not exist.
    """
    global _order, _hits
    order = _parse(text) if text else None
    _order = order if order is not None and order.role in (None, role) else None
    _hits = 0


def disarm() -> None:
    """Cancel the order, in a process that replaces a dead one."""
    arm(None)


def hit(point: str) -> None:
    """Mark that the process has reached `point`; an order may kill it here."""
    if _order is not None:
        _count(_order, point)


def _count(order: Order, point: str) -> None:
    global _hits
    assert point in POINTS, f"{point} is not among the declared points"
    if point == order.point:
        _hits += 1
        if _hits == order.time:
            os.kill(os.getpid(), signal.SIGKILL)


def _parse(text: str) -> Order:
    found = _ORDER.fullmatch(text)
    if found is None:
        raise UserError(f"{VARIABLE}={text!r}: expected point:time or point:time@role: {_EXAMPLE}")
    point, time, role = found["point"], int(found["time"]), found["role"]
    if point not in POINTS:
        raise UserError(f"{VARIABLE}={text!r}: no such point{did_you_mean(point, POINTS)}")
    return Order(point, time, role)
