"""What a sweep shows while it runs: a line for each run that starts or ends, and a live table.

    Runner --started, ended, tick--> Progress --> standard error

The table is for a terminal only; it shows the runs that are under way, and how many are to come.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from galamp.core.machine.machine import format_list
from galamp.storage.run_folder import METRICS
from galamp.storage.run_logs import last_known_row
from galamp.telemetry.display.console import plain_table
from galamp.telemetry.display.streams import SafeStream
from galamp.telemetry.display.text import count, duration, percent, score
from galamp.tools.run_folders.record import RunRecord, State, read_record
from galamp.tools.sweep.ledger import Ledger
from galamp.tools.sweep.packing import Place
from galamp.tools.sweep.planned import PlannedRun
from galamp.tools.sweep.runner import Ended

EVERY_S = 2.0
MAX_ROWS = 20
HEADINGS = ("run", "done", "agent steps", "score", "time")


class Progress:
    """The lines and the table; its loss, such as of a closed pipe, is no error."""

    def __init__(self, ledger: Ledger, total: int, *, quiet: bool, stream: TextIO | None = None):
        """Show `total` runs on standard error, or another stream; with `quiet` nothing."""
        self._ledger, self._total, self._quiet = ledger, total, quiet
        self._stream = SafeStream(stream or sys.stderr)
        self._console = Console(
            file=cast(TextIO, self._stream), markup=False, highlight=False, emoji=False,
            soft_wrap=True,
        )  # fmt: skip
        self._live: Live | None = None
        self._number = self._ended = 0
        self._drawn_s, self._began_s = 0.0, time.monotonic()

    def __enter__(self) -> Progress:
        """Open the table, if there is a terminal."""
        if not self._quiet and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()

    def started(self, run: PlannedRun, place: Place, *, resume: bool) -> None:
        """Print that a run starts, or goes on, and where."""
        self._number += 1
        gpus = f", GPU {format_list(place.gpus)}" if place.gpus else ""
        what = "goes on" if resume else "starts"
        where = f"cores {format_list(place.cores)}{gpus}"
        self._print(f"{self._number} of {self._total}: {run.name} {what}, {where}")

    def ended(self, run: PlannedRun, how: Ended, failure: str) -> None:
        """Print how a run has ended."""
        self._ended += 1
        self._print(f"{run.name} {self._outcome(run, how)}{f': {failure}' if failure else ''}")

    def stopping(self, count: int) -> None:
        """Print that the runs are to save and end."""
        if count:
            self._print(f"stopping {count} runs, which save; again Ctrl-C ends them at once")

    def tick(self, running: Sequence[PlannedRun], waiting: int) -> None:
        """Draw the table anew, every few seconds."""
        if self._live is None or time.monotonic() - self._drawn_s < EVERY_S:
            return
        if not self._stream.ready():  # output is held (^S)
            return
        self._drawn_s = time.monotonic()
        table = plain_table(HEADINGS)
        for run in running[:MAX_ROWS]:
            table.add_row(*self._row(run))
        elapsed = duration(self._drawn_s - self._began_s)
        foot = (
            f"{self._ended} of {self._total} runs ended, {len(running)} run, {waiting} wait, "
            f"{elapsed}"
        )
        self._live.update(Group(table, Text(foot)), refresh=True)

    def _row(self, run: PlannedRun) -> tuple[str, ...]:
        row = last_known_row(self._ledger.path(run) / METRICS)
        known = RunRecord(self._ledger.path(run), State.RUNNING, row=row)
        steps, wall_s = known.agent_steps or 0, known.number("", "wall_s")
        done = percent(steps, run.config.total_steps)
        return run.name, done, count(steps), score(known.score), duration(wall_s)

    def _outcome(self, run: PlannedRun, how: Ended) -> str:
        if how is Ended.FAILED:
            return "failed"
        record = read_record(self._ledger.path(run))
        steps, wall_s = record.agent_steps, record.number("wall_s", "wall_s")
        text = f"{how}" if steps is None else f"{how} after {count(steps)} agent steps"
        text += "" if wall_s is None else f", {duration(wall_s)}"
        return text + ("" if record.score is None else f", score {score(record.score)}")

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(f"galamp: {text}"))
