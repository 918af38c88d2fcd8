"""Outbox: what a bridge has to send to one node, in a thread of its own; the newest wins.

    offer(rank, make) --> waiting: at most one per learner --> make() --> send, which may block

The thread takes what has waited longest, makes its frame, which is of the newest vector by then,
and sends it: the next one goes when the last one has left. A node that is slow, or stopped, blocks
this thread alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from galamp.gossip.cluster.port import Make
from galamp.memory.arrays import Wakeup

IDLE_S = 1.0
"""Longest sleep of a thread with nothing to do."""


class Outbox:
    """Conflating queue and thread of one receiving node."""

    def __init__(self, name: str, send: Callable[[int, bytes | bytearray], None]) -> None:
        """Start the thread; `send(rank, frame)` may block, and raises nothing."""
        self.sent = 0
        self._send, self._waiting = send, dict[int, Make]()
        self._offered = self._taken = 0
        self._failure: Exception | None = None
        self._wakeup, self._closed = Wakeup(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def overwritten(self) -> int:
        """Number of offers that were replaced by newer ones before their turn."""
        return max(0, self._offered - self._taken - len(self._waiting))

    def offer(self, rank: int, make: Make) -> None:
        """Have the newest publication of a learner sent; one that still waits is replaced.

        Raises:
            Exception: the one that has ended the thread.
        """
        if self._failure is not None:
            raise self._failure
        # Each counter has one thread that writes it, and a step of a dictionary is atomic.
        self._waiting[rank] = make
        self._offered += 1
        self._wakeup.signal()

    def close(self, timeout_s: float) -> None:
        """End the thread, once what it sends has left; wait for that at most `timeout_s`."""
        self._closed = True
        self._wakeup.signal()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # whoever offers the next one is told
            self._failure = error

    def _work(self) -> None:
        while not self._closed:
            rank = next(iter(list(self._waiting)), None)
            if rank is None:
                self._wakeup.wait(IDLE_S)
                continue
            self._taken += 1  # before: what is counted as overwritten is never too much
            make = self._waiting.pop(rank)
            frame = make()
            if frame is not None:
                self._send(rank, frame)
                self.sent += 1
