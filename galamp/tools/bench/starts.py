"""Start-up time: from the command to the first agent steps that were learned from.

    bin/galamp run --quiet --log-every-s 0.25 --> the first row of metrics.jsonl with agent steps

Runs in the bench. Rows come every quarter of a second: the steps may be that much older. There is
no warm-up: the first repetition may still read files from the disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.table import Table

from galamp.core.errors import RunFailed
from galamp.telemetry.display.console import plain_table
from galamp.tools.bench.processes import Program
from galamp.tools.bench.runs import ROOT, START_DEADLINE_S, Workload, galamp_system, read_rows

LAUNCHER = ROOT / "bin" / "galamp"
POLL_EVERY_S = 0.01
ROWS_EVERY_S = "0.25"


def first_step_s(workload: Workload) -> float:
    """Start galamp and wait for its first agent steps; returns seconds since the command.

    Raises:
        RunFailed: there were none.
    """
    more = ("--device", "cpu", "--quiet", "--log-every-s", ROWS_EVERY_S)
    words = galamp_system(workload, more=more).command
    with tempfile.TemporaryDirectory(prefix="galamp-bench-") as folder:
        command = [LAUNCHER, *words[words.index("run") :], "--run-dir", Path(folder, "run")]
        start_s = time.monotonic()
        with Program(command, ROOT, Path(folder, "output.log")) as program:
            while not _has_steps(Path(folder, "run", "metrics.jsonl")):
                if program.ends_within(POLL_EVERY_S):
                    raise RunFailed(f"ended at its start: {program.last_line()}")
                if time.monotonic() > start_s + START_DEADLINE_S:
                    raise RunFailed(f"made no agent step in {START_DEADLINE_S:.0f} s")
            passed_s = time.monotonic() - start_s
            program.stop()
    return passed_s


def _has_steps(path: Path) -> bool:
    return any(row["global_step"] > 0 for row in read_rows(path))


def starts_table(found: Sequence[tuple[str, list[float]]]) -> Table:
    """Return a line per name: its seconds, the median and the spread."""
    result = plain_table(("galamp", "first step after, s", "min - max"))
    for name, seconds in found:
        spread = f"{min(seconds):.2f} - {max(seconds):.2f}"
        result.add_row(name, f"{median(seconds):.2f}", spread)
    return result
