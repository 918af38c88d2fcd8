"""Counts of an outbox, at any moment: what is said to be overwritten was."""

from __future__ import annotations

import time
from typing import Any

from galamp.gossip.cluster.outbox import Outbox


class Watched(dict[int, Any]):
    """What waits, and what the outbox says was overwritten just before and after each change."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox, self.seen = outbox, list[int]()

    def __setitem__(self, rank: int, make: Any) -> None:
        super().__setitem__(rank, make)
        self.seen.append(self._outbox.overwritten)

    def pop(self, *given: Any) -> Any:
        made = super().pop(*given)
        self.seen.append(self._outbox.overwritten)
        return made


def test_nothing_is_counted_as_overwritten_that_was_sent() -> None:
    sent = list[int]()
    outbox = Outbox("to node 1", lambda rank, frame: sent.append(rank))
    watched = outbox._waiting = Watched(outbox)
    for rank in range(200):
        outbox.offer(rank, lambda: b"x")
    end_s = time.monotonic() + 60.0
    while len(sent) < 200:
        time.sleep(0.001)
        assert time.monotonic() < end_s
    outbox.close(60.0)
    assert len(watched.seen) == 400
    assert set(watched.seen) == {0}
