"""Edge: frames and texts between this node and another, over one gloo group after another.

    Meeting --Group--> edge --frame, text, request--> Inbox
    send: a frame, in the thread of an `Outbox`;  say, ask: texts, in a thread of the edge

gloo's receives must be there before a send can leave, and one that waits too long breaks the whole
connection. So while a group lasts one thread receives its texts, of which one comes twice a second
at least: where none has come for the lease, the group is broken, all that waits for it fails, and
both nodes meet anew. A second thread receives frames, for however long none comes, and a third one
sends texts. Frames go in pieces, between which texts pass. The threads of a group end with it: what
gloo has them wait for longer does not concern the next one.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from galamp.gossip.cluster.gloo_meeting import Group, Meeting
from galamp.gossip.cluster.inbox import MAX_TEXTS, ROOM_BYTES, Inbox
from galamp.memory.arrays import Wakeup

LEASE_S, BEAT_S = 3.0, 0.5
"""A node that was silent for so long is gone; the longest pause between two texts."""
RETRY_S = 0.2
"""Pause between two attempts to meet."""
PIECE_BYTES = 2**19
LEASE, QUIET = timedelta(seconds=LEASE_S), timedelta(minutes=10)
"""Longest wait for a text or a piece of a frame; and for a frame, then both nodes meet anew."""
FRAMES, PIECES, TEXTS, REST = range(4)
"""Tags: heads of frames and their bytes, heads of texts and theirs."""
_HEAD = struct.Struct("<qq")
BEAT, TEXT, ASK = range(3)


class GlooEdge:
    """One edge, and its threads."""

    def __init__(
        self, node: int, meeting: Meeting, inbox: Inbox, wake: Callable[[], object]
    ) -> None:
        """Start to meet `node`; what it sends goes to the inbox, and `wake` tells of its coming."""
        self._node, self._meeting, self._inbox, self._wake = node, meeting, inbox, wake
        self._group: Group | None = None
        self._closed = self.alive = False
        self.failure: Exception | None = None
        """What has ended its thread, which nothing should."""
        self._texts, self._spoken = deque[tuple[int, int, bytes]](maxlen=MAX_TEXTS), Wakeup()
        self._thread = self._started("meets", self._work)

    def _started(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"{name} node {self._node}", daemon=True)
        thread.start()
        return thread

    # What is sent

    def send(self, rank: int, frame: bytes | bytearray) -> None:
        """Send a frame of learner `rank`; it is lost if the node is not there.

        Its memory is free then: what gloo fails to send within a call it does not read later.
        """
        group = self._group
        if group is None:
            return
        data = frame if isinstance(frame, bytearray) else bytearray(frame)
        try:
            group.send(_head(rank, len(data)), FRAMES, LEASE)
            for piece in _pieces(data):
                group.send(piece, PIECES, LEASE)
        except RuntimeError:
            group.destroy()

    def say(self, text: bytes) -> None:
        """Send a text soon."""
        self._queue(TEXT, len(text), text)

    def ask(self, rank: int) -> None:
        """Ask for a learner's newest frame."""
        self._queue(ASK, rank, b"")

    def _queue(self, kind: int, value: int, text: bytes) -> None:
        if self.alive:
            self._texts.append((kind, value, text))
            self._spoken.signal()

    def leave(self) -> None:
        """Break the connection, and have the threads end."""
        self._closed = True
        group = self._group
        if group is not None:
            group.destroy()
        self._spoken.signal()

    def join(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for the end of the thread that meets."""
        self._thread.join(timeout_s)

    # Its threads

    def _work(self) -> None:
        try:
            self._meet()
        except Exception as error:  # whoever asks who is there is told
            self.failure = error
        self._meeting.close()

    def _meet(self) -> None:
        """Meet, hear texts until the group breaks, and so on."""
        while not self._closed:
            group = self._meeting.group()
            if group is None:
                time.sleep(RETRY_S)
                continue
            self._texts.clear()
            self._group, self._spoken = group, Wakeup()  # of which one thread at a time can wait
            try:
                self._started("speaks to", partial(self._speak, group, self._spoken))
                self._started("takes frames of", partial(self._take_frames, group))
                while not self._closed:
                    self._hear(group)
            except RuntimeError:
                self._group, self.alive = None, False
            group.destroy()
            self._wake()

    def _hear(self, group: Group) -> None:
        head = bytearray(_HEAD.size)
        group.receive(head, TEXTS, LEASE)
        kind, value = _HEAD.unpack(head)
        if not self.alive:
            self.alive = True
            self._wake()
        if kind == ASK:
            self._inbox.request(self._node, value)
        elif kind == TEXT:
            if not 0 < value <= ROOM_BYTES:
                raise RuntimeError(f"a text of {value} bytes")
            text = bytearray(value)
            group.receive(text, REST, LEASE)
            self._inbox.text(self._node, bytes(text))

    def _speak(self, group: Group, spoken: Wakeup) -> None:
        """Send texts as they come, and beats, while the group lasts."""
        try:
            while self._group is group and not self._closed:
                group.send(_head(BEAT, 0), TEXTS, LEASE)
                while self._texts:
                    kind, value, text = self._texts.popleft()
                    group.send(_head(kind, value), TEXTS, LEASE)
                    if text:
                        group.send(bytearray(text), REST, LEASE)
                spoken.wait(BEAT_S)
        except RuntimeError:
            group.destroy()

    def _take_frames(self, group: Group) -> None:
        """Receive frames while the group lasts."""
        try:
            while self._group is group and not self._closed:
                self._take(group)
        except RuntimeError:
            group.destroy()

    def _take(self, group: Group) -> None:
        head = bytearray(_HEAD.size)
        group.receive(head, FRAMES, QUIET)
        rank, length = _HEAD.unpack(head)
        if length <= 0 or not self._inbox.takes(self._node, rank, length):
            raise RuntimeError(f"a frame of {length} bytes of learner {rank}")
        data = bytearray(length)
        for piece in _pieces(data):
            group.receive(piece, PIECES, LEASE)
        self._inbox.frame(self._node, rank, data)


def _head(one: int, other: int) -> bytearray:
    return bytearray(_HEAD.pack(one, other))


def _pieces(data: bytearray) -> list[memoryview]:
    view = memoryview(data)
    return [view[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
