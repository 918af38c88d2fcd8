"""Inbox: what a port has received and nobody has asked for yet; the newest frames win.

    network's threads --frame, text, request--> Inbox --frames, told, asked--> the bridge's loop

What does not fit is forgotten: of each learner all but the newest frames, and the oldest texts. The
learners that a forgotten frame was for, if no later one is for them, are told only of the next one
that is: frames are not read here.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from galamp.gossip.cluster.port import Packed, PortContext

ROOM_BYTES = 2**18
"""Length of a text, and what a port may add to a frame."""
KEPT, MAX_TEXTS = 2, 256
"""Frames of a learner, and texts, that wait to be asked for."""
T = TypeVar("T")


class Inbox:
    """What has come for one node; appending and taking are atomic, so no thread waits."""

    def __init__(self, context: PortContext) -> None:
        self._context = context
        others = [node for node in range(context.nodes) if node != context.node]
        lanes = context.ranks // context.nodes
        self._frames: dict[tuple[int, int], deque[Packed]] = {
            (node, rank): deque(maxlen=KEPT)
            for node in others
            for rank in range(node * lanes, (node + 1) * lanes)
        }
        self._arrived = dict[tuple[int, int], None]()
        """Those of which a frame has come, in this order."""
        self._texts = deque[tuple[int, bytes]](maxlen=MAX_TEXTS)
        self._asked = deque[tuple[int, int]](maxlen=context.nodes * context.ranks)
        self._others = frozenset(others)

    def takes(self, node: int, rank: int, length: int) -> bool:
        """Whether a frame of so many bytes is kept, that `node` sends as one of learner `rank`."""
        return (node, rank) in self._frames and length <= self._context.frame_bytes + ROOM_BYTES

    def frame(self, node: int, rank: int, packed: Packed) -> None:
        """Keep a frame, if it `takes` such."""
        if self.takes(node, rank, len(packed)):
            self._frames[node, rank].append(packed)
            self._arrived[node, rank] = None  # after the frame: it is not overlooked
            self._context.wake()

    def text(self, node: int, text: bytes) -> None:
        """Keep a text of another node, if it is not too long."""
        if node in self._others and len(text) <= ROOM_BYTES:
            self._texts.append((node, text))
            self._context.wake()

    def request(self, node: int, rank: int) -> None:
        """Keep another node's request for a learner's newest frame."""
        if node in self._others:
            self._asked.append((node, rank))
            self._context.wake()

    def frames(self) -> list[tuple[int, Packed]]:
        """Return the newest frames since the last call: (sending node, frame).

        Those of a learner are in the order in which they came; learners in that of their first.
        """
        found = []
        for sender in list(self._arrived):
            del self._arrived[sender]  # before its frames are taken: one that comes now is seen
            found += [(sender[0], packed) for packed in _taken(self._frames[sender])]
        return found

    def told(self) -> list[tuple[int, bytes]]:
        """Return the texts since the last call: (sending node, text)."""
        return _taken(self._texts)

    def asked(self) -> list[tuple[int, int]]:
        """Return the requests since the last call: (asking node, learner)."""
        return _taken(self._asked)


def _taken(kept: deque[T]) -> list[T]:
    found = []
    while kept:
        found.append(kept.popleft())
    return found
