"""What the live dashboard costs the run that draws it: shown and held in turns, within one run.

    galamp run --screen--> a terminal that takes it, or not (as after ^S) --rows--> Turns

Runs in the bench. A run draws nothing while its terminal holds the output. So the same processes
are measured in both states, in the order A B B A, which a drift over time affects alike. The first
two seconds of each turn are left out, and what is left until the next row.
"""

from __future__ import annotations

import contextlib
import math
import os
import pty
import struct
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from rich.table import Table

from galamp.core.errors import RunFailed
from galamp.telemetry.display.console import plain_table
from galamp.tools.bench.processes import Program, spent_s
from galamp.tools.bench.runs import (
    ROOT,
    START_DEADLINE_S,
    Row,
    Workload,
    cores,
    galamp_system,
    read_rows,
)

SETTLING_S, TURN_S = 2.0, 6.0
"""Left out at the start of each turn, at least, and measured of it."""
FEWEST_PAIRS = 6
"""Fewer give an interval that is too wide to tell anything."""
SIZE = 24, 80
"""Lines and columns of the terminal."""
POLL_S = 0.05
READ_BYTES = 1 << 16
ROW_DEADLINE_S = 30.0
SHOWN, HELD = "shown", "held"
NORMAL_95 = 1.959964
"""Standard deviations on each side of a normal distribution's mean that have 95 % of it."""


class Turn(NamedTuple):
    """One measured turn.

    Attributes:
        agent_steps_per_s: of all learners.
        supervisor: processor time of the process that draws, per second.
        drawn_bytes: what it wrote to the terminal, bytes per second.
    """

    agent_steps_per_s: float
    supervisor: float
    drawn_bytes: float


class Screen:
    """A terminal that the run draws on: it takes what is drawn, or holds it."""

    def __init__(self) -> None:
        """Open it."""
        self._ours, self.theirs = pty.openpty()
        ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        os.set_blocking(self._ours, False)
        self.taken_bytes = 0

    def hold(self, held: bool) -> None:
        """Take no output any more, or take it again."""
        termios.tcflow(self.theirs, termios.TCOOFF if held else termios.TCOON)

    def take(self, seconds: float) -> None:
        """Take what comes for so long."""
        until_s = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                while text := os.read(self._ours, READ_BYTES):
                    self.taken_bytes += len(text)
            if time.monotonic() >= until_s:
                return
            time.sleep(POLL_S)

    def close(self) -> None:
        """Close it."""
        os.close(self._ours)
        os.close(self.theirs)


def measure(
    workload: Workload, pairs: int, settling_s: float = SETTLING_S, turn_s: float = TURN_S
) -> dict[str, list[Turn]]:
    """Measure so many pairs of turns within one run; returns the turns of both states, in order.

    Raises:
        RunFailed: the run ended, made no agent steps in a turn, or drew nothing.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="galamp-bench-")))
        screen = Screen()
        stack.callback(screen.close)
        rows = folder / "run" / "metrics.jsonl"
        more = ("--device", "cpu", "--run-dir", str(folder / "run"))
        command = galamp_system(workload, more=more).command
        program = stack.enter_context(
            Program(
                command,
                ROOT,
                folder / "output.log",
                environment={"TERM": "xterm-256color"},
                terminal=screen.theirs,
            )
        )
        stack.callback(screen.hold, False)  # or it could not say that it ends
        _await_rows(program, screen, rows, START_DEADLINE_S)
        found: dict[str, list[Turn]] = {SHOWN: [], HELD: []}
        for state in in_turns(pairs):
            screen.hold(state == HELD)
            screen.take(settling_s)
            found[state].append(_turn(program, screen, rows, turn_s))
        if not any(turn.drawn_bytes for turn in found[SHOWN]):
            raise RunFailed("the run drew nothing: is there a terminal that it can draw on?")
        return found


def in_turns(pairs: int) -> Iterator[str]:
    """Yield the states as A B, B A, A B ...: each pair in the other order."""
    for number in range(pairs):
        yield from (SHOWN, HELD) if number % 2 == 0 else (HELD, SHOWN)


def _turn(program: Program, screen: Screen, rows: Path, seconds: float) -> Turn:
    # The newest row may be older than this turn, for all that was left out.
    newest = _await_rows(program, screen, rows, ROW_DEADLINE_S)
    first = _await_rows(program, screen, rows, ROW_DEADLINE_S, after_s=newest["wall_s"])
    began_s, spent, taken = time.monotonic(), spent_s(program.session), screen.taken_bytes
    screen.take(seconds)
    passed_s = time.monotonic() - began_s
    spent, taken = spent_s(program.session) - spent, screen.taken_bytes - taken
    last = _await_rows(program, screen, rows, ROW_DEADLINE_S, after_s=first["wall_s"])
    steps, wall_s = last["global_step"] - first["global_step"], last["wall_s"] - first["wall_s"]
    if steps <= 0:
        raise RunFailed(f"the run made no agent step in {wall_s:.0f} s")
    return Turn(steps / wall_s, spent / passed_s, taken / passed_s)


def _await_rows(
    program: Program, screen: Screen, rows: Path, deadline_s: float, after_s: float = -math.inf
) -> Row:
    """Return the newest row with agent steps, later than `after_s` of the run's own time."""
    until_s = time.monotonic() + deadline_s
    while True:
        if program.exit_code is not None:
            raise RunFailed(f"the run ended with code {program.exit_code} while it was measured")
        found = [row for row in read_rows(rows) if row["global_step"] > 0]
        if found and found[-1]["wall_s"] > after_s:
            return found[-1]
        if time.monotonic() > until_s:
            raise RunFailed(f"the run wrote no row with agent steps in {deadline_s:.0f} s")
        screen.take(POLL_S)


class Mean(NamedTuple):
    """A mean, and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of at least `FEWEST_PAIRS` values, with Student's interval.

    Method: the first terms of the quantile's series in 1 / (n - 1) (Abramowitz and Stegun 1964,
    26.7.5). It is 0.1 % too small for 6 values, and less for more.
    """
    value, error = fmean(values), stdev(values) / math.sqrt(len(values))
    z, free = NORMAL_95, len(values) - 1
    reach = error * (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return Mean(value, value - reach, value + reach)


def ratios(found: dict[str, list[Turn]]) -> list[float]:
    """Return the speed shown relative to that held, pair by pair."""
    pairs = zip(found[SHOWN], found[HELD], strict=True)
    return [shown.agent_steps_per_s / held.agent_steps_per_s for shown, held in pairs]


def dashboard_table(found: dict[str, list[Turn]]) -> Table:
    """Return a line per state, and what the difference is."""
    table = plain_table(("dashboard", "agent steps/s", "supervisor, % of a core", "drawn, kB/s"))
    for state, turns in found.items():
        speed = fmean(turn.agent_steps_per_s for turn in turns)
        busy = 100 * fmean(turn.supervisor for turn in turns)
        drawn = fmean(turn.drawn_bytes for turn in turns) / 1e3
        table.add_row(state, f"{speed:,.0f}", f"{busy:.2f}", f"{drawn:.1f}")
    return table


def remarks(found: dict[str, list[Turn]]) -> list[str]:
    """Return the cost in words: of throughput, and of processor time."""
    ratio = mean_of(ratios(found))
    pairs = zip(found[SHOWN], found[HELD], strict=True)
    extra = mean_of([100 * (shown.supervisor - held.supervisor) / cores() for shown, held in pairs])
    return [
        f"Throughput shown / held: {ratio.value:.4f} (95 % interval {ratio.low:.4f} - "
        f"{ratio.high:.4f}, {len(found[SHOWN])} pairs)",
        f"Processor time of the screen: {extra.value:.2f} % of all cores "
        f"({extra.low:.2f} - {extra.high:.2f})",
    ]
