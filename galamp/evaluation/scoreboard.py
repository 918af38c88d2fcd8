"""What `galamp eval` shows: progress on standard error, then a table of scores.

Runs in the evaluation's process. The table is made from the report alone, as the JSON file has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import rich.progress as bars
from rich import box
from rich.console import Console
from rich.table import Table

from galamp.display.text import UNKNOWN, clean
from galamp.evaluation.playing import Game

WIDTH = 120
"""Columns of the table where it goes into a file or a pipe."""

ROOMY = 100
"""Columns of a terminal that the table need not be pressed into."""

HEADINGS = {
    "mean": "mean",
    "std err": "standard_error",
    "median": "median",
    "std": "std",
    "min": "min",
    "max": "max",
    "length": "mean_length",
}
"""Heading -> name in the report."""


class Progress:
    """A bar per agent; `done[0]` counts the games of all, for whoever interrupts."""

    def __init__(self, quiet: bool, done: list[int]) -> None:
        self._quiet, self._done = quiet, done

    @contextmanager
    def of(self, learner: int | str, episodes: int) -> Iterator[Callable[[Game], None]]:
        """Show a bar, and yield what is to be called with each finished game."""
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        console = Console(file=sys.stderr)
        hidden = self._quiet or not console.is_terminal
        with bars.Progress(*columns, console=console, disable=hidden, transient=True) as progress:
            task = progress.add_task(label(learner), total=episodes)
            total = [0.0]

            def tell(game: Game) -> None:
                self._done[0] += 1
                total[0] += game.ret
                progress.advance(task)
                finished = progress.tasks[task].completed
                text = f"{label(learner)}, mean score so far {total[0] / finished:,.2f}"
                progress.update(task, description=text)

            yield tell


def label(learner: int | str) -> str:
    """Return what is said of whose parameters play."""
    return "mean of learners" if learner == "mean" else f"learner {learner}"


def show(report: dict[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write a report as a table, with what is needed to compare it above and below."""
    width = width or (None if file.isatty() else WIDTH)
    console = Console(file=file, width=width, markup=False, highlight=False, emoji=False)
    games = report["results"][0]["episodes"]
    chosen = "most probable" if report["greedy"] else "drawn from the policy"
    console.print(
        f"{clean(report['env_id'])} after {report['agent_steps']:,} agent steps of training\n"
        f"protocol    {clean(report['protocol'])}\n"
        f"checkpoint  {clean(report['checkpoint'])}\n"
        f"played      {games:,} episodes each, actions {chosen}, seed {report['seed']}"
    )
    console.print(_table(report, console.width >= ROOMY))
    for line in _remarks(report):
        console.print(line)


def _table(report: dict[str, Any], roomy: bool) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, int(roomy)))
    table.add_column("learner")
    human = ["human"] if report["reference"] else []
    for heading in (*HEADINGS, "cut", *human):
        table.add_column(heading, justify="right")
    for row in report["results"]:
        cells = [str(row["learner"]), *(_number(row[name]) for name in HEADINGS.values())]
        cells.append(f"{row['truncated']:,}")
        if human:
            percent = row["human_normalised_percent"]
            cells.append(UNKNOWN if percent is None else f"{percent:,.1f}%")
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    """Return a number with two decimals, fewer where it is large."""
    if value is None:
        return UNKNOWN
    return f"{value:,.{2 if abs(value) < 1000 else 1 if abs(value) < 100_000 else 0}f}"


def _remarks(report: dict[str, Any]) -> Iterator[str]:
    yield "Scores are true game scores; std err is that of the mean; lengths are in agent steps."
    if any(row["learner"] == "mean" for row in report["results"]):
        yield "Learner mean plays with the mean of all learners' parameters."
    if report["reference"]:
        random, human, source = report["reference"].values()
        yield f"Human: 0% is a score of {random}, 100% one of {human} ({source})."
    cut = sum(row["truncated"] for row in report["results"])
    if cut:
        limit = report["max_frames"]
        by = f"{limit:,} emulator frames" if limit else "the environment's own limit"
        stall = "; a greedy agent can stall where a game waits for FIRE" if limit else ""
        yield f"Cut: {cut} episodes were ended by {by}{stall if report['greedy'] else ''}."
