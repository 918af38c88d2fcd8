"""Throughput of what is counted while it grows: agent steps/s, frames/s, seconds per phase.

    (time, count), ... --ThroughputMeter--> gain, seconds, rate: of a window, or of all

Pure: the caller brings the clock. Used by the recorder, `--learners auto` and the bench; recovery
times under chaos interpolate between samples instead, see `tools/chaos/recovery.py`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any


class ThroughputMeter:
    """Meter of a count, or of several as one numpy array, between the first and last sample.

    Samples older than the window are dropped, as long as two remain: after a pause that is longer
    than the window the rate is that since before the pause.
    """

    def __init__(self, window_s: float = math.inf) -> None:
        """Measure over the last `window_s` seconds, or from the first sample on."""
        self._window_s = window_s
        self._samples: deque[tuple[float, Any]] = deque()

    def restart(self) -> None:
        """Forget all samples."""
        self._samples.clear()

    def add(self, now_s: float, count: Any) -> None:
        """Add a sample; not earlier than the last one."""
        if self._window_s == math.inf and len(self._samples) == 2:
            self._samples.pop()  # nothing will ever be dropped: the ends are enough
        self._samples.append((now_s, count))
        while now_s - self._samples[0][0] > self._window_s and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def seconds(self) -> float:
        """Time between the first and the last sample; 0 without samples."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    @property
    def gain(self) -> Any:
        """What was counted between them; 0 without samples."""
        return self._samples[-1][1] - self._samples[0][1] if self._samples else 0

    @property
    def rate(self) -> float:
        """Gain per second; 0 until there are samples of two times."""
        return float(self.gain) / self.seconds if self.seconds > 0 else 0.0
