"""How slow this machine is now, and promises in seconds that allow for it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tests.support.engine import DEADLINE_S

CHILDREN = 4
"""As many as a run of the tests has: where others take the cores, they wait for one another too."""
QUIET_S = 0.35
"""What so many plain children take, that load numpy, on a quiet machine of two cores."""
SAMPLES = 3


def slowness(samples: int = SAMPLES) -> float:
    """Return how many times as long plain children take now as on a quiet machine; at least 1."""
    return max(1.0, statistics.median(plain_children_s() for _ in range(samples)) / QUIET_S)


def plain_children_s() -> float:
    """Return how long children take that start at once, from the first start to the last end."""
    began_s = time.monotonic()
    child = [sys.executable, "-E", "-s", "-c", "import numpy"]
    children = [subprocess.Popen(child) for _ in range(CHILDREN)]
    codes = [each.wait(DEADLINE_S) for each in children]
    assert codes == [0] * CHILDREN
    return time.monotonic() - began_s


def kept(promise_s: float, scenario: Callable[[], float]) -> None:
    """Hold that what `scenario` measures keeps to the promise, times how slow the machine is.

    That is measured before, and better after where the promise alone would not have been kept.
    """
    times = slowness(1)
    took_s = scenario()
    if took_s > promise_s:
        times = max(times, slowness())
    limit_s = promise_s * times
    assert took_s <= limit_s, f"took {took_s:.2f} s; {promise_s:g} s, times {times:.1f} now"
