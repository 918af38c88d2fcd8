"""Token bucket: how much processor time a bridge may take before what it sends has to wait.

    processor time it takes --out--> [ at most BURST_S ] <--in-- a share of all cores' time

Learners gossip more often the faster they are, and a vector costs the bridges at both ends, in
proportion to its length. Where processors are few, they would take them from the learners. So while
the bucket is empty, what is to be sent stays where it is, and the newest wins. What comes from
other nodes is always taken, and takes from the bucket; so now and then a bridge sends all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.03
"""Of the processor time of all cores of a node."""
BURST_S = 0.25
"""Most processor time that is saved up, or owed."""
LONGEST_PAUSE_S = 1.0
"""However empty the bucket is, a bridge sends after so long."""


class TokenBucket:
    """Seconds of processor time that this process may still take; full at first."""

    def __init__(
        self,
        cores: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin; `cores` are those of the node, `used` gives the processor time until now."""
        self._rate, self._clock, self._used = SHARE * cores, clock, used
        self._left_s = BURST_S
        self._then_s, self._used_s = clock(), used()
        self._sent_s = self._then_s

    def may_send(self) -> bool:
        """Whether the bridge may send what there is to send, now."""
        now_s, used_s = self._clock(), self._used()
        more_s = self._rate * (now_s - self._then_s) - (used_s - self._used_s)
        self._left_s = min(BURST_S, max(-BURST_S, self._left_s + more_s))
        self._then_s, self._used_s = now_s, used_s
        if self._left_s <= 0 and now_s - self._sent_s < LONGEST_PAUSE_S:
            return False
        self._sent_s = now_s
        return True
