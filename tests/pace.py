"""How slow this machine is now, and promises in seconds that allow for it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tests.engine import DEADLINE_S

PLAIN_CHILD_S = 0.2
"""What a child that loads numpy takes from its start to its end on a quiet machine of two cores."""
SAMPLES = 3


def slowness() -> float:
    """Return how many times as long a plain child takes now as on a quiet machine; at least 1."""
    taken = []
    for _ in range(SAMPLES):
        began_s = time.monotonic()
        child = [sys.executable, "-E", "-s", "-c", "import numpy"]
        subprocess.run(child, check=True, timeout=DEADLINE_S)
        taken.append(time.monotonic() - began_s)
    return max(1.0, statistics.median(taken) / PLAIN_CHILD_S)


def kept(promise_s: float, scenario: Callable[[], float]) -> None:
    """Hold that what `scenario` measures keeps to the promise, times how slow the machine is.

    That is measured before, and after too where the promise alone would not have been kept.
    """
    times = slowness()
    took_s = scenario()
    if took_s > promise_s:
        times = max(times, slowness())
    limit_s = promise_s * times
    assert took_s <= limit_s, f"took {took_s:.2f} s; {promise_s:g} s, times {times:.1f} now"
