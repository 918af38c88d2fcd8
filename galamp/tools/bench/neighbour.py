"""Effect of a run on another program on the same machine: wake-up latency and processor share.

    galamp run (own session) || a small program (own session), again and again --> Neighbour

Runs in the bench. The small program sleeps as a shell or an editor does, and wakes late when the
scheduler delays it; then it computes for a fixed amount of processor time, which takes longer the
smaller its share of a core is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from rich.table import Table

from galamp.core.errors import RunFailed
from galamp.telemetry.display.console import plain_table
from galamp.tools.bench.processes import Program
from galamp.tools.bench.runs import ROOT, START_DEADLINE_S, Workload, galamp_system, read_rows

SMALL_PROGRAM = """
import json, sys, time
late_ms = []
for _ in range(50):
    then = time.monotonic()
    time.sleep(0.01)
    late_ms.append((time.monotonic() - then) * 1e3 - 10)
began, cpu = time.monotonic(), time.process_time()
while time.process_time() - cpu < float(sys.argv[1]):
    pass
print(json.dumps({"late_ms": late_ms, "computed_s": time.monotonic() - began}))
"""
COMPUTED_S = 0.25
"""Processor time that the small program computes for."""
DEADLINE_S = 120.0
POLL_EVERY_S = 0.1


class Neighbour(NamedTuple):
    """Measurements of the small program, over all its repetitions.

    Attributes:
        late_ms: delay of each sleep of 10 ms, in ms.
        stretch: duration of its computation, divided by the processor time that it needed.
        agent_steps_per_s: of the run beside it, 0 without one.
    """

    late_ms: tuple[float, ...]
    stretch: tuple[float, ...]
    agent_steps_per_s: float


def beside(workload: Workload | None, flags: Sequence[str], seconds: float) -> Neighbour:
    """Run the small program again and again for `seconds`, beside a run of `workload` if given.

    Raises:
        RunFailed: the run made no agent steps, or the small program did not end in time.
    """
    with ExitStack() as stack:
        rows: Path | None = None
        program: Program | None = None
        if workload is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="galamp-bench-")))
            rows = folder / "run" / "metrics.jsonl"
            run = ("--run-dir", str(folder / "run"), "--log-every-s", "0.25")
            more = ("--device", "cpu", "--quiet", *run, *flags)
            system = galamp_system(workload, more=more)
            program = stack.enter_context(Program(system.command, ROOT, folder / "output.log"))
            _await_steps(program, rows)
        late_ms, stretch = list[float](), list[float]()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            late, computed_s = _small_program()
            late_ms += late
            stretch.append(computed_s / COMPUTED_S)
            if program is not None and program.ends_within(0.0):
                raise RunFailed(f"ended while it was measured: {program.last_line()}")
        return Neighbour(tuple(late_ms), tuple(stretch), _rate(rows) if rows else 0.0)


def _small_program() -> tuple[list[float], float]:
    """Run it once; returns how late its sleeps were, in ms, and how long it computed, in s."""
    command = [sys.executable, "-I", "-S", "-c", SMALL_PROGRAM, str(COMPUTED_S)]
    try:
        ended = subprocess.run(
            command, capture_output=True, timeout=DEADLINE_S, check=True, start_new_session=True
        )
    except subprocess.SubprocessError as error:
        raise RunFailed(f"the small program: {error}") from None
    found = json.loads(ended.stdout)
    return found["late_ms"], found["computed_s"]


def _await_steps(program: Program, rows: Path) -> None:
    until_s = time.monotonic() + START_DEADLINE_S
    while not any(row["global_step"] > 0 for row in read_rows(rows)):
        if program.ends_within(POLL_EVERY_S):
            raise RunFailed(f"ended at its start: {program.last_line()}")
        if time.monotonic() > until_s:
            raise RunFailed(f"made no agent step in {START_DEADLINE_S:.0f} s")


def _rate(path: Path) -> float:
    """Return the agent steps per second over all rows of the run."""
    rows = [row for row in read_rows(path) if row["global_step"] > 0]
    passed_s = rows[-1]["wall_s"] - rows[0]["wall_s"]
    steps: int = rows[-1]["global_step"] - rows[0]["global_step"]
    return steps / passed_s if passed_s > 0 else 0.0


def merged(rounds: Sequence[Neighbour]) -> Neighbour:
    """Return several rounds as one."""
    return Neighbour(
        tuple(ms for one in rounds for ms in one.late_ms),
        tuple(times for one in rounds for times in one.stretch),
        median(one.agent_steps_per_s for one in rounds),
    )


def neighbours_table(found: Sequence[tuple[str, Neighbour]]) -> Table:
    """Return a line per name: how late sleeps end, and how long a computation takes."""
    late, takes = ("sleep late by, ms", "p99", "most"), ("computing takes, times", "most")
    result = plain_table(("beside", *late, *takes, "run, agent steps/s"))
    for name, one in found:
        p50, p99 = np.percentile(one.late_ms, (50, 99))
        result.add_row(
            name,
            *(f"{p50:.2f}", f"{p99:.1f}", f"{max(one.late_ms):.1f}"),
            *(f"{median(one.stretch):.2f}", f"{max(one.stretch):.2f}"),
            f"{one.agent_steps_per_s:,.0f}" if one.agent_steps_per_s else "",
        )
    return result
