"""Table of the learners: fixed columns for each class of widths, so nothing moves.

    Snapshot --table--> a legend, a header, and one line per learner

Pure. `dist` has one exponent for the whole column: its values can be compared at sight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import panels
from galamp.telemetry.display import text as words
from galamp.telemetry.display.panels import PHASES
from galamp.telemetry.display.text import clip, count, score
from galamp.telemetry.snapshot import LearnerSnapshot, Snapshot, WorkerState

WIDE, ROOMY = 100, 110
"""Widths from which a table has all its columns, and two blanks between them."""
LEAST_BAR = 4

_STATE_STYLES = {WorkerState.RUNNING: "green", WorkerState.FAILED: "bold red"}


@dataclass(frozen=True)
class Column:
    """One column: its width never changes."""

    title: str
    width: int
    cell: Callable[[LearnerSnapshot], str]
    left: bool = False
    wide: bool = False
    """Whether only wide tables have it."""

    def pad(self, text: str) -> str:
        """Return a cell, or the title, at the column's width."""
        fit = clip(text, self.width)
        return fit.ljust(self.width) if self.left else fit.rjust(self.width)


def table_rows(learners: int, free: int) -> int:
    """Return the lines that `table` takes for so many learners where `free` lines are left."""
    return max(0, min(max(learners, 1) + 2, free))


def table(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    """Draw one line per learner under a legend and a header: at most `rows` lines in all.

    Learners beyond that are counted in the last line, with their range of speeds.
    """
    learners = snapshot.learners
    if rows < 3 or not learners:
        return [Text("no learners yet" if not learners else "", "dim")] * min(rows, 1)
    shown = learners if len(learners) + 2 <= rows else learners[: rows - 3]
    gap = 2 if width >= ROOMY else 1
    before, after = _columns(snapshot, width, gap)
    bar = width - sum(column.width + gap for column in before + after)
    titles = [column.pad(column.title) for column in before]
    titles += ["time".ljust(bar)] + [column.pad(column.title) for column in after]
    space = " " * gap
    lines = [_legend(learners), Text(space.join(titles), "dim")]
    for one in shown:
        rank, state, *rest = (column.pad(column.cell(one)) for column in before)
        line = Text(rank + space).append(state, _STATE_STYLES.get(one.state, "yellow"))
        line.append("".join(space + cell for cell in rest) + space, "default")
        line.append_text(bar_of(one, bar))
        line.append("".join(space + column.pad(column.cell(one)) for column in after), "default")
        lines.append(line)
    return lines if len(shown) == len(learners) else [*lines, _more(learners, len(shown))]


def _columns(snapshot: Snapshot, width: int, gap: int) -> tuple[list[Column], list[Column]]:
    """Return the columns before and after the bar; the last ones go where the width is short."""
    bound = "" if not snapshot.max_staleness else f"≤{snapshot.max_staleness}"
    exponent, distance = words.one_exponent([one.distance for one in snapshot.learners])
    columns = [
        Column("#", 2, lambda one: str(one.rank)),
        Column("state", 8, lambda one: one.state.name.lower(), left=True),
        Column("device", 6, lambda one: clean(one.device), left=True),
        Column("envs", 4, lambda one: count(one.envs), wide=True),
        Column("steps/s", 7, lambda one: count(one.agent_steps_per_s)),
    ]
    after = [
        Column("score", 7, lambda one: score(one.mean_return)),
        Column(f"stale{bound}", 8, lambda one: count(one.staleness)),
        Column("sent", 5, lambda one: count(one.sent), wide=True),
        Column("received", 8, lambda one: count(one.received), wide=True),
        Column("overwr", 6, lambda one: count(one.overwritten), wide=True),
        Column(f"dist{exponent}", 8, lambda one: distance(one.distance)),
        Column("restarts", 8, lambda one: count(one.incarnation)),
    ]
    wide = width >= WIDE
    before = [each for each in columns if wide or not each.wide]
    after = [each for each in after if wide or not each.wide]
    while after and width - sum(each.width + gap for each in before + after) < LEAST_BAR:
        after.pop()
    return before, after


def bar_of(one: LearnerSnapshot, width: int) -> Text:
    """Stack the phases of a learner's time in `width` cells."""
    cells = words.cells_of([one.phase_shares.get(phase, 0.0) for phase in PHASES], max(0, width))
    bar = Text()
    for (mark, style), length in zip(PHASES.values(), cells, strict=True):
        bar.append(mark * length, style)
    bar.pad_right(max(0, width - len(bar)))
    return bar


def _legend(learners: Sequence[LearnerSnapshot]) -> Text:
    """Name the phases in their colours, with the learners' mean shares."""
    shares = panels.mean_shares(learners)
    line = Text()
    for phase, (mark, style) in PHASES.items():
        line.append(mark, style)
        share = f"{100 * shares[phase]:3.0f} %" if shares else "     "
        line.append(f" {phase} {share}  ", "default")
    return line


def _more(learners: Sequence[LearnerSnapshot], shown: int) -> Text:
    speeds = [one.agent_steps_per_s for one in learners[shown:]]
    mean = sum(speeds) / len(speeds)
    summary = f" … and {len(speeds)} more: min/mean/max "
    summary += f"{count(min(speeds))}/{count(mean)}/{count(max(speeds))} agent steps/s"
    idle = sum(one.state != WorkerState.RUNNING for one in learners[shown:])
    return Text(summary + (f", {idle} not running" if idle else ""), "dim")
