"""Token bucket: how much processor time a bridge may take before what it sends has to wait.

    each frame that it sends --out--> [ at most BURST_S ] <--in-- a share of all cores' time

Learners gossip more often the faster they are, and a vector costs the bridges at both ends, in
proportion to its length. Where processors are few, they would take them from the learners. So while
the bucket is empty, what is to be sent stays where it is, and the newest wins.

A frame that is sent takes twice the mean processor time of those that pass, either way: so it pays
for one that comes back, and a bridge that receives as many as it sends takes its share in all. What
comes from other nodes takes nothing. Else, where receiving costs as much as sending, the first of
two nodes to send would leave the other one no time to, again and again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SHARE = 0.03
"""Of the processor time of all cores of a node."""
BURST_S = 0.25
"""Most processor time that is saved up, or owed."""
LONGEST_PAUSE_S = 1.0
"""However empty the bucket is, a bridge sends after so long."""
MEAN_S = 30.0
"""Time constant of the mean processor time of a frame."""


class TokenBucket:
    """Seconds of processor time that this process may still send for; full at first."""

    def __init__(
        self,
        cores: float,
        sent: Callable[[], int],
        received: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin.

        Args:
            cores: those of the node.
            sent: gives the number of frames that have left until now.
            received: gives the number of frames that have come until now.
            clock: gives the time, in seconds.
            used: gives the processor time of this process until now, in seconds.
        """
        self._rate, self._clock, self._used = SHARE * cores, clock, used
        self._sent, self._received = sent, received
        self._left_s = BURST_S
        self._then_s, self._used_s = clock(), used()
        self._sent_before, self._received_before = sent(), received()
        self._cost_s = self._frames = 0.0  # both decay alike
        self._allowed_s = self._then_s

    def may_send(self) -> bool:
        """Whether the bridge may send what there is to send, now."""
        now_s = self._clock()
        passed_s, self._then_s = now_s - self._then_s, now_s
        more_s = self._rate * passed_s - self._charge(passed_s)
        self._left_s = min(BURST_S, max(-BURST_S, self._left_s + more_s))
        if self._left_s <= 0 and now_s - self._allowed_s < LONGEST_PAUSE_S:
            return False
        self._allowed_s = now_s
        return True

    def _charge(self, passed_s: float) -> float:
        """Return what the frames take that have been sent in the last `passed_s`, in seconds."""
        used_s, sent, received = self._used(), self._sent(), self._received()
        more_s, more_sent = used_s - self._used_s, sent - self._sent_before
        more = more_sent + received - self._received_before
        self._used_s, self._sent_before, self._received_before = used_s, sent, received
        kept = math.exp(-passed_s / MEAN_S)
        weight = (1.0 - kept) * MEAN_S / passed_s if passed_s > 0.0 else 1.0
        self._cost_s = kept * self._cost_s + weight * more_s
        self._frames = kept * self._frames + weight * more
        return 2.0 * more_sent * self._cost_s / self._frames if more_sent else 0.0
