"""Calibration: how much longer everything takes here than on a machine with nothing else to do.

    wall time of `import torch` in a new process / its processor time --busy_factor--> at least 1

Bounds in seconds are promised for processors that are free. Runs in the command, before both runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

FREE = 1.25
"""Up to this factor a machine counts as free, and bounds hold as they are written."""


def factor_of(wall_s: float, processor_s: float) -> float:
    """Return what to multiply bounds by, where a process took so long for so much work."""
    factor = wall_s / max(processor_s, 1e-3)
    return factor if factor > FREE else 1.0


def busy_factor() -> float:
    """Measure it, on the processors that this process may use."""
    began_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", "import torch"], stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return factor_of(time.monotonic() - began_s, usage.ru_utime + usage.ru_stime)
