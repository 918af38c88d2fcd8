"""Charts on the terminal, once or again and again while runs go on.

    Runs --update every EVERY_S--> charts --> the same place of the terminal, or the file of -o

A refresh reads only what was written since the last one, and takes no more time than it leaves to
others. Without a terminal nothing is drawn twice: the charts come when all runs have ended.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live

from galamp.core.errors import EXIT_OK
from galamp.telemetry.display.streams import tell
from galamp.tools.plot import output
from galamp.tools.plot.charts import Chart
from galamp.tools.plot.runs import Run
from galamp.tools.plot.terminal import render

EVERY_S = 2.0
"""Pause between refreshes; longer where a refresh takes longer than that."""
SILENT_S = 600.0
"""A run of another machine that has written nothing for so long is taken to have ended."""
PLAIN_WIDTH, PLAIN_HEIGHT = 80, 24

Charts = Callable[[], Sequence[Chart]]


def show(charts: Sequence[Chart], stream: TextIO | None = None) -> None:
    """Print charts on standard output, or another stream."""
    console = _console(stream or sys.stdout)
    console.print(picture(charts, console))


def picture(charts: Sequence[Chart], console: Console) -> Group:
    """Return charts that fill the terminal, or 24 lines of 80 cells each where there is none."""
    rows = (console.height - 1) // len(charts) if console.is_terminal else PLAIN_HEIGHT
    rest = max(len(chart.lines) + len(chart.notes) + 5 for chart in charts)
    return Group(*(line for each in charts for line in render(each, console.width, rows - rest)))


def follow(runs: Sequence[Run], charts: Charts, options: argparse.Namespace, kind: str) -> int:
    """Draw until all runs have ended; Ctrl-C leaves the last picture."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cursor is restored
    console = _console(sys.stdout)
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop", transient=False)
    draws = options.output is None and console.is_terminal
    progress = _Progress(runs)
    try:
        while True:
            began_s = time.monotonic()
            goes_on = progress.update()
            drawn = charts()
            if options.output is not None:
                _write(drawn, options, kind)
            elif draws:
                live.start()
                live.update(picture(drawn, console), refresh=True)
            if not goes_on:
                break
            time.sleep(max(EVERY_S, time.monotonic() - began_s))
        message = "all runs have ended\n" if len(runs) > 1 else "the run has ended\n"
    except KeyboardInterrupt:
        message, drawn = "left; training goes on\n", [] if draws else charts()
    finally:
        live.stop()
    if not draws and options.output is None and any(chart.lines for chart in drawn):
        show(drawn)
    tell(message, sys.stderr)
    return EXIT_OK


class _Progress:
    """Whether runs go on, as far as that can be seen from here."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs, self._changed_s = runs, time.monotonic()

    def update(self) -> bool:
        """Read what is new; returns whether more will come."""
        # Asked before the rows are read: the last ones are written before the lock is released.
        running = [run for run in self._runs if run.is_running()]
        if sum(run.history.update() for run in self._runs):
            self._changed_s = time.monotonic()
        silent = time.monotonic() - self._changed_s > SILENT_S
        return any(run.is_here() or not silent for run in running)


def _write(charts: Sequence[Chart], options: argparse.Namespace, kind: str) -> None:
    """Draw the file anew, once there is something to draw."""
    from galamp.tools.plot.figure import draw

    if any(chart.lines for chart in charts):
        output.write(options.output, draw(charts, kind), options.overwrite)
        options.overwrite = True  # what is there now is this command's own


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
