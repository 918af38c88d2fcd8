"""One snapshot of a run as one screen of coloured text.

Runs in the supervisor's process. A `Snapshot` goes in, `rich` text comes out: a pure function,
without clock, process or terminal. A small screen stacks its sections; a large one sets them side
by side under titles. The learners get their rows first, the chart takes what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from galamp.core.sanitize import clean
from galamp.telemetry.display import panels
from galamp.telemetry.display import text as words
from galamp.telemetry.display.panels import LABEL_WIDTH, PHASES, labelled, titled
from galamp.telemetry.display.text import count, fit, measure, score
from galamp.telemetry.snapshot import LearnerSnapshot, Snapshot, WorkerState

WIDE, VERY_WIDE, TALL = 110, 160, 32
"""Columns from which some, then all sections stand side by side, and the rows that they need."""
SIDE, GAP = 42, 3
"""Columns of a section beside the chart, and of the space between two sections."""

_STATE_STYLES = {WorkerState.RUNNING: "green", WorkerState.FAILED: "bold red"}


def render(snapshot: Snapshot, *, width: int, height: int) -> RenderableType:
    """Draw a run on a screen of `width` columns and `height` rows; no line or row exceeds them."""
    head = [
        panels.headline(snapshot, width),
        *panels.run_dir(snapshot, width),
        panels.progress(snapshot, width),
    ]
    body = _small
    if width >= WIDE and height >= TALL:
        body = _large if width >= VERY_WIDE else _medium
    lines = (head + body(snapshot, width, height - len(head)))[:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)


def _small(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Stack all sections."""
    room = width - LABEL_WIDTH
    top = labelled("speed", [fit(panels.speed(snapshot), room)])
    top += labelled("last 100", [fit(panels.scores(snapshot), room)])
    top += panels.evaluation(snapshot, width)
    bottom = labelled("gossip", [panels.gossip_line(snapshot, room)])
    bottom += labelled("losses", [fit(panels.losses(snapshot), room)])
    bottom += labelled("limit", [panels.hint(snapshot, room)])
    free = height - len(top) - len(bottom)
    rows = table_rows(len(snapshot.learners), free - 6)
    free -= rows
    event_rows = max(1, min(len(snapshot.events), (free - 4) // 3))
    blank = [Text()] if free - event_rows >= 10 else []
    chart = panels.chart(snapshot, width, free - event_rows - 3 * len(blank))
    bottom += labelled("events", panels.events(snapshot, room, event_rows))
    return [*top, *blank, *chart, *blank, *table(snapshot, width, rows), *blank, *bottom]


def _medium(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Set the numbers beside the chart and the gossip beside the events, the learners between."""
    left = width - SIDE - GAP
    event_lines = _event_lines(snapshot, left, min(6, height // 6))
    low = _beside(event_lines, left, _gossip(snapshot, SIDE))
    rows = table_rows(len(snapshot.learners), height - len(low) - 18)
    band = height - len(low) - rows - 5
    top = _beside(_curve(snapshot, left, band), left, _numbers(snapshot, SIDE, band))
    return [Text(), *top, Text(), *_learners(snapshot, width, rows), Text(), *low]


def _large(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Put the chart and the learners at the left, everything else at the right."""
    side = width // 3
    left = width - side - GAP
    rows = table_rows(len(snapshot.learners), height - 11)
    main = [*_curve(snapshot, left, height - rows - 4), Text()]
    main += _learners(snapshot, left, rows)
    rows_of_numbers = 14 if snapshot.evaluation is None else 16
    rest = [*_numbers(snapshot, side, rows_of_numbers), Text(), *_gossip(snapshot, side), Text()]
    rest += _event_lines(snapshot, side, height - len(rest) - 2)
    return [Text(), *_beside(main, left, rest)]


def _curve(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    title = titled("mean score of the last 100 episodes", width)
    return title + panels.chart(snapshot, width, rows - 1)


def _numbers(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    return titled("training", width) + panels.numbers(snapshot, width, rows - 1)


def _learners(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    limit = labelled("limit", [panels.hint(snapshot, width - LABEL_WIDTH)])
    return titled("learners", width) + table(snapshot, width, rows) + limit


def _gossip(snapshot: Snapshot, width: int) -> list[Text]:
    return titled("gossip", width) + panels.gossip(snapshot, width)


def _event_lines(snapshot: Snapshot, width: int, rows: int) -> list[Text]:
    lines = panels.events(snapshot, width, rows)
    return [*titled("events", width), *(Text(line) for line in lines)]


def _beside(left: list[Text], width: int, right: list[Text]) -> list[Text]:
    """Set two blocks of lines side by side, the left one padded to `width`."""
    lines = [line.copy() for line in left] + [Text() for _ in right[len(left) :]]
    for line, cell in zip(lines, right, strict=False):
        line.pad_right(max(0, width - line.cell_len) + GAP)
        line.append_text(cell)
    return lines


@dataclass(frozen=True)
class _Column:
    """One column of the table of learners."""

    title: str
    cells: list[str]
    least: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        return max(self.least, len(self.title), *(len(cell) for cell in self.cells))

    def pad(self, cell: str) -> str:
        return cell.ljust(self.width) if self.left else cell.rjust(self.width)


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
    gap = 2 if width >= WIDE else 1
    before, after = _columns(shown or learners[:1], width, gap)
    bar = width - sum(column.width + gap for column in before + after)
    titles = [column.pad(column.title) for column in before]
    titles += ["time".ljust(bar)] + [column.pad(column.title) for column in after]
    space = " " * gap
    lines = [_legend(learners), Text(space.join(titles), "dim")]
    for i, one in enumerate(shown):
        rank, state, *rest = (column.pad(column.cells[i]) for column in before)
        line = Text(rank + space).append(state, _STATE_STYLES.get(one.state, "yellow"))
        line.append("".join(space + cell for cell in rest) + space, "default")
        line.append_text(_bar(one, bar))
        line.append("".join(space + column.pad(column.cells[i]) for column in after), "default")
        lines.append(line)
    return lines if len(shown) == len(learners) else [*lines, _more(learners, len(shown))]


def _columns(
    learners: Sequence[LearnerSnapshot], width: int, gap: int
) -> tuple[list[_Column], list[_Column]]:
    """Return the columns before and after the bar; the last ones go where the width is short."""
    names = ("staleness", "sent", "received", "dropped", "distance")
    if width < WIDE:
        names = ("stale", "sent", "recv", "drop", "dist")
    before = [
        _Column("#", [str(one.rank) for one in learners], 2),
        _Column("state", [one.state.name.lower() for one in learners], 7, left=True),
        *_exceptional(learners),
        _Column("device", [clean(one.device) for one in learners], 6, left=True),
        _Column("agent steps/s", [count(one.agent_steps_per_s) for one in learners]),
    ]
    after = [
        _Column("score", [score(one.mean_return) for one in learners], 6),
        _Column(names[0], [count(one.staleness) for one in learners]),
        _Column(names[1], [count(one.sent) for one in learners], 5),
        _Column(names[2], [count(one.received) for one in learners], 5),
        _Column(names[3], [count(one.dropped) for one in learners]),
        _Column(names[4], [measure(one.distance) for one in learners], 5),
    ]
    while after and width - sum(column.width + gap for column in before + after) < 5:
        after.pop()
    return before, after


def _exceptional(learners: Sequence[LearnerSnapshot]) -> list[_Column]:
    """Return columns that are shown only where there is something to tell."""
    columns = []
    if any(one.incarnation for one in learners):
        columns.append(_Column("starts", [count(1 + one.incarnation) for one in learners]))
    if len({one.envs for one in learners}) > 1:
        columns.append(_Column("envs", [count(one.envs) for one in learners]))
    return columns


def _bar(one: LearnerSnapshot, width: int) -> Text:
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
    line = Text("time ", "dim")
    for phase, (mark, style) in PHASES.items():
        line.append(mark, style)
        share = f" {100 * shares[phase]:.0f} %" if shares else ""
        line.append(f" {phase}{share}  ", "default")
    return line


def _more(learners: Sequence[LearnerSnapshot], shown: int) -> Text:
    speeds = [one.agent_steps_per_s for one in learners[shown:]]
    mean = sum(speeds) / len(speeds)
    summary = f" … and {len(speeds)} more: min/mean/max "
    summary += f"{count(min(speeds))}/{count(mean)}/{count(max(speeds))} agent steps/s"
    idle = sum(one.state != WorkerState.RUNNING for one in learners[shown:])
    return Text(summary + (f", {idle} not running" if idle else ""), "dim")
