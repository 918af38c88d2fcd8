"""Arrivals: frames that have come, on their way to the mirrors; of each learner the newest counts.

    Port --frames--> add: by learner --take: one learner's, checked--> Mirrors, ClusterBoard, rows

Where several frames of a learner wait, the newest is mirrored, and those that any of them was for
are told of it; an older one only if the newest is not what it says. Checks and copies take long for
long vectors, so one learner's are taken at a time: whoever calls has other things to do in between.
Runs in bridges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from galamp.core.failpoints import hit
from galamp.core.nodes import Ranks
from galamp.gossip.cluster.membership import Membership
from galamp.gossip.cluster.mirrors import Mirrors
from galamp.gossip.cluster.port import Packed
from galamp.gossip.cluster.wire import Frame, FrameError, WireIdentity, header_of, unpack
from galamp.memory.cluster_board import ClusterBoard
from galamp.memory.status import StatusRow

KEPT = 2
"""Most frames of a learner that wait: the newest, and one in its place if it is damaged."""


class _Waiting(NamedTuple):
    frame: Frame
    packed: Packed


class Arrivals:
    """What waits to be mirrored on one node; false if nothing does."""

    def __init__(
        self,
        ranks: Ranks,
        identity: WireIdentity,
        membership: Membership,
        mirrors: Mirrors,
        board: ClusterBoard,
        rows: Sequence[StatusRow],
        refuse: Callable[[int, str], None],
    ) -> None:
        """Begin with nothing; `refuse(node, why)` is told of what is not taken."""
        self._ranks, self._identity, self._membership = ranks, identity, membership
        self._mirrors, self._board, self._rows, self._refuse = mirrors, board, rows, refuse
        self._waiting = defaultdict[tuple[int, int], list[_Waiting]](list)
        self._rung = dict[int, int]()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, node: int, packed: Packed) -> None:
        """Add a frame that `node` has sent; one that is damaged or not its own is refused."""
        try:
            frame = header_of(packed, self._identity)
        except FrameError as error:
            self._refuse(node, f"node {node} sends what is refused: {error}")
            return
        objection = self._membership.objection(node, frame)
        if objection:
            self._refuse(node, objection)
            return
        waiting = self._waiting[node, frame.rank]
        waiting.append(_Waiting(frame, packed))
        if len(waiting) > KEPT:
            first = waiting.pop(0)
            waiting[0] = _Waiting(_for_both(waiting[0].frame, first.frame), waiting[0].packed)

    def take(self) -> None:
        """Take the frames of the learner that has waited longest; there must be one."""
        key = next(iter(self._waiting))
        waiting = self._waiting.pop(key)
        for at in reversed(range(len(waiting))):
            frame, packed = waiting[at]
            for older in waiting[:at]:
                frame = _for_both(frame, older.frame)
            if self._mirror(key[0], frame, packed):
                return

    def _mirror(self, node: int, frame: Frame, packed: Packed) -> bool:
        """Mirror a frame, if it is what it says, and newer than what there is; return whether."""
        objection = self._membership.objection(node, frame)
        if objection is not None:  # it is late: what was before it is later still
            if self._membership.repeats(frame):
                self._take_again(frame)
            return True
        try:
            _, vector = unpack(packed, self._identity)
        except FrameError as error:
            self._refuse(node, f"node {node} sends what is refused: {error}")
            return False
        board, rank = self._board, self._ranks.here(frame.rank)
        hit("bridge.taken")
        self._mirrors.put(rank, frame, vector)
        hit("bridge.mirrored")
        self._rung[rank] = frame.lanes
        board.set_rank(rank, "number", frame.number)
        board.set_rank(rank, "mirrored", 1)
        board.set_node(node, "received", board.node(node, "received") + 1)
        row = self._rows[rank]
        row["rounds"] = max(row["rounds"], frame.round + 1)
        row["updates"] = frame.version
        return True

    def _take_again(self, frame: Frame) -> None:
        """Tell those that a publication was not for when it came first: its tokens came apart.

        Or its node was away for a moment since, and the mirror still has it: it is fetched, and
        learners wait for it.
        """
        rank = self._ranks.here(frame.rank)
        if not self._board.rank(rank, "mirrored"):
            if self._mirrors.follows(rank):
                return
            self._board.set_rank(rank, "mirrored", 1)
        rung = self._rung.get(rank, 0)
        self._mirrors.ring(rank, frame.lanes & ~rung)
        self._rung[rank] = rung | frame.lanes


def _for_both(frame: Frame, older: Frame) -> Frame:
    """Return a frame, for those that an older one of the same start was for as well."""
    lanes = older.lanes if older.epoch == frame.epoch else 0
    return frame._replace(lanes=frame.lanes | lanes)
