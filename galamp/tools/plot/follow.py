"""Charts on the terminal, once or again and again while runs go on.

    Runs --update every EVERY_S--> charts --> the terminal's alternate screen, or the file of -o

A refresh reads only what was written since the last one, and the pause after it is `IDLE` times as
long as it took, so that training keeps its cores. Without a terminal nothing is drawn twice: the
charts come when all runs have ended.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TextIO, cast

from rich.console import Console, Group
from rich.live import Live

from galamp.core.errors import EXIT_OK, UserError
from galamp.core.leaving import interrupted_by
from galamp.telemetry.display.streams import SafeStream, print_safely
from galamp.tools.figures import FigureFile
from galamp.tools.plot.charts import Chart
from galamp.tools.plot.runs import Run
from galamp.tools.plot.terminal import render

EVERY_S, IDLE, MAX_PAUSE_S = 2.0, 20.0, 60.0
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
    rows = PLAIN_HEIGHT
    if console.is_terminal and charts:
        rows = (console.height - 1) // len(charts)
    rest = max((len(chart.lines) + len(chart.notes) + 5 for chart in charts), default=0)
    return Group(*(line for each in charts for line in render(each, console.width, rows - rest)))


def follow(runs: Sequence[Run], charts: Charts, file: FigureFile | None) -> int:
    """Draw until all runs have ended, or Ctrl-C; the last drawing stays.

    Raises:
        UserError: a metric does not exist, or a file cannot be written.
    """
    message, drawn = "left; training goes on\n", list[Chart]()
    with interrupted_by(signal.SIGTERM), _screen(file is None) as draw:
        try:
            for continues in _refreshes(runs):
                try:
                    drawn = list(charts())
                except UserError:
                    # What the learners measure is known from the first update on.
                    if not continues or _has_learned(runs):
                        raise
                if file is not None:
                    file = _saved(drawn, file)
                draw(drawn)
            message = "all runs have ended\n" if len(runs) > 1 else "the run has ended\n"
        except KeyboardInterrupt:
            pass
    if file is None and any(chart.lines for chart in drawn):
        show(drawn)
    print_safely(message, sys.stderr)
    return EXIT_OK


def _refreshes(runs: Sequence[Run]) -> Iterator[bool]:
    """Yield whether some runs go on, after each reading of what is new; at the end, False."""
    changed_s, continues = time.monotonic(), True
    while continues:
        began_s = time.monotonic()
        # Asked before the rows are read: the last ones are written before the lock is released.
        running = [run for run in runs if run.is_running()]
        if sum(run.history.update() for run in runs):
            changed_s = time.monotonic()
        silent = time.monotonic() - changed_s > SILENT_S
        continues = any(run.is_here() or not silent for run in running)
        yield continues
        if continues:
            took_s = time.monotonic() - began_s
            time.sleep(min(max(EVERY_S, IDLE * took_s), MAX_PAUSE_S))


@contextlib.contextmanager
def _screen(wanted: bool) -> Iterator[Callable[[Sequence[Chart]], None]]:
    """Yield what draws charts on the alternate screen, or nothing where there is no terminal."""
    stream = SafeStream(sys.stdout)
    console = _console(cast(TextIO, stream))
    if not wanted or not console.is_terminal or console.is_dumb_terminal:
        yield lambda charts: None
        return
    live = Live(console=console, auto_refresh=False, screen=True)

    def draw(charts: Sequence[Chart]) -> None:
        if stream.ready():  # not while output is held (^S)
            live.start()
            live.update(picture(charts, console), refresh=True)

    try:
        yield draw
    finally:
        stream.lost = not stream.ready()
        live.stop()


def _saved(charts: Sequence[Chart], file: FigureFile) -> FigureFile:
    """Draw the file anew, once there is something to draw; from then on it may be replaced."""
    from galamp.tools.plot.figure import draw

    if not any(chart.lines for chart in charts):
        return file
    file.save(draw(charts, file.format))
    return replace(file, overwrite=True)  # what is there now is this command's own


def _has_learned(runs: Sequence[Run]) -> bool:
    return any(name.startswith("losses/") for run in runs for name in run.history.names)


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
