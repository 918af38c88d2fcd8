"""Output of `galamp eval`: progress on standard error, then a table of scores.

Runs in the evaluation's process. The table is made from the report alone, as the JSON file has it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import rich.progress as bars
from rich.console import Console
from rich.table import Table

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.streams import announce
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.evaluation.playing import Game

ROOMY = 100
"""Terminal columns from which the table needs no compression."""

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

LINE_EVERY_S = 10.0
"""Interval of progress lines where there is no terminal."""
BAR_EVERY_S = 1.0
"""Interval of updates on a terminal, besides the one after each game."""


class Tally:
    """Progress of one agent, shown every `every_s`, and after each game if requested.

    Attributes:
        games: number of finished games.
        steps: agent steps over all environments.
    """

    def __init__(
        self,
        name: str,
        episodes: int,
        progress: Progress,
        show: Callable[[Tally], None],
        *,
        every_s: float = LINE_EVERY_S,
        after_games: bool = False,
    ) -> None:
        """Start at 0 of `episodes` games."""
        self.games, self.steps, self._total = 0, 0, 0.0
        self._name, self._episodes = name, episodes
        self._progress, self._show = progress, show
        self._every_s, self._after_games = every_s, after_games

    def game(self, game: Game) -> None:
        """Count a finished game."""
        self.games += 1
        self._total += game.ret
        self._progress.done[0] += 1
        if self._after_games:
            self._show(self)

    def stepped(self, envs: int) -> None:
        """Count an agent step of so many environments."""
        self.steps += envs
        if self._progress.due(self._every_s):
            self._show(self)

    @property
    def line(self) -> str:
        """The progress, in one line."""
        mean = f"{self._total / self.games:,.2f}" if self.games else UNKNOWN
        return (
            f"{self._name}: {self.games:,} of {self._episodes:,} games, mean score so far {mean}, "
            f"{self.steps:,} agent steps played"
        )


class Progress:
    """A bar per agent, or lines where standard error is no terminal.

    Attributes:
        done: `done[0]` counts the games of all agents, for an interrupt.
    """

    def __init__(
        self, quiet: bool, done: list[int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show nothing if `quiet`; `clock` gives seconds."""
        self.done, self._quiet, self._clock = done, quiet, clock
        self._shown_s = clock()

    def due(self, every_s: float) -> bool:
        """Return whether `every_s` have passed since it last returned true, or since the start."""
        now_s = self._clock()
        if now_s - self._shown_s < every_s:
            return False
        self._shown_s = now_s
        return True

    @contextmanager
    def of(self, learner: int | str, episodes: int) -> Iterator[Tally]:
        """Yield the tally of one agent's games and steps, and show it."""
        console = Console(file=sys.stderr)
        name = label(learner)
        if self._quiet:
            yield Tally(name, episodes, self, lambda tally: None)
        elif console.is_terminal:
            with self._bar(name, episodes, console) as tally:
                yield tally
        else:
            yield Tally(name, episodes, self, _line)

    @contextmanager
    def _bar(self, name: str, episodes: int, console: Console) -> Iterator[Tally]:
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(name, total=episodes)

            def show(tally: Tally) -> None:
                progress.update(task, description=tally.line, completed=tally.games)

            yield Tally(name, episodes, self, show, every_s=BAR_EVERY_S, after_games=True)


def _line(tally: Tally) -> None:
    announce(f"{tally.line}\n", sys.stderr)  # a lost stream must not end the games


def label(learner: int | str) -> str:
    """Return a label of the parameters that play."""
    return "mean of learners" if learner == "mean" else f"learner {learner}"


def show(report: dict[str, Any], file: TextIO, width: int | None = None) -> None:
    """Write a report as a table, with the facts that a comparison needs above and below."""
    console = table_console(file, width)
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
    human = ["human"] if report["reference"] else []
    table = plain_table(("learner", *HEADINGS, "cut", *human), padding=int(roomy))
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
    for row in report["results"]:
        if row["learner"] == "mean":
            yield f"Learner mean plays with the mean of {row['mean_of']} learners' parameters."
    if report["reference"]:
        random, human, source = report["reference"].values()
        yield f"Human: 0% is a score of {random}, 100% one of {human} ({source})."
    if report["reference_misfit"]:
        yield (
            "Human: no percentage, since the published scores were made under another protocol: "
            f"{report['reference_misfit']}."
        )
    cut = sum(row["truncated"] for row in report["results"])
    if cut:
        stall = "; a greedy agent can stall where a game waits for FIRE"
        waits = report["greedy"] and report["max_frames"]
        yield f"Cut: {cut} episodes were ended by {_limit(report)}{stall if waits else ''}."


def _limit(report: dict[str, Any]) -> str:
    """Return the limit that cut games short."""
    if report["max_frames"]:
        return f"{report['max_frames']:,} emulator frames"
    steps = f"{report['max_episode_steps']:,} agent steps"
    if report["own_step_limit"]:
        return f"{steps}, the environment's own limit"
    return f"{steps} (--max-episode-steps)"
