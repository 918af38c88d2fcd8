"""One snapshot of a run as one screen of coloured text.

    Snapshot, Viewing --render--> lines of text

Runs in the supervisor's process, or in that of `galamp attach`. A pure function, without clock,
process or terminal. A small screen stacks its sections; a large one sets them side by side under
titles. The learners get their rows first, the chart takes what is left. A screen that is narrower
than `NARROW` or lower than `LOW` shows only what matters most.
"""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text

from galamp.telemetry.display import game_view, gossip_view, help_view, panels, system_view
from galamp.telemetry.display.chart import known_metrics, lines_of, metric_chart
from galamp.telemetry.display.panels import LABEL_WIDTH, NARROW, labelled, titled
from galamp.telemetry.display.table import table, table_rows
from galamp.telemetry.display.text import fit
from galamp.telemetry.display.viewing import Viewing
from galamp.telemetry.snapshot import Snapshot

LOW = 12
"""Rows below which only the most important is shown."""
WIDE, VERY_WIDE, TALL = 110, 160, 32
"""Columns from which some, then all sections stand side by side, and the rows that they need."""
SIDE, GAP = 42, 3
"""Columns of a section beside the chart, and of the space between two sections."""
ROWS_WITH_RUN = 20
"""Rows besides the learners' from which the run folder is shown."""
ROWS_OF_TWO = 24
"""Rows from which there are two charts, of the chosen metric and the next."""
OVERVIEW = Viewing()


def render(
    snapshot: Snapshot, *, width: int, height: int, viewing: Viewing = OVERVIEW
) -> list[Text]:
    """Draw a run on a screen of `width` columns and `height` rows; no line or row exceeds them."""
    foot = help_view.footer(viewing, width) if viewing.keys and height > LOW else []
    free = height - len(foot)
    if viewing.view == "overview":
        lines = _overview(snapshot, width, free, viewing)
    else:
        helps = viewing.view == "help"
        lines = [panels.headline(snapshot, width)] if helps else _head(snapshot, width, free)
        lines += _view(snapshot, width, free - len(lines), viewing)
    lines = [line.copy() for line in lines[:free]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    return lines + [Text()] * (free - len(lines) if foot else 0) + foot


def _overview(snapshot: Snapshot, width: int, height: int, viewing: Viewing) -> list[Text]:
    if width < NARROW or height < LOW:
        return _minimal(snapshot, width)
    head = _head(snapshot, width, height)
    body = _small
    if width >= WIDE and height >= TALL:
        body = _large if width >= VERY_WIDE else _medium
    return head + body(snapshot, width, height - len(head), viewing)


def _head(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    room = width - LABEL_WIDTH
    lines = [panels.headline(snapshot, width)]
    if height >= ROWS_WITH_RUN + len(snapshot.learners):
        lines += panels.run_dir(snapshot, width)
    lines.append(panels.progress(snapshot, width))
    if width >= NARROW and height >= LOW:
        lines += labelled("machine", [fit(panels.machine(snapshot), room)])
    return lines


def _minimal(snapshot: Snapshot, width: int) -> list[Text]:
    """Return progress, score, speed, learners, and the last warning; nothing else."""
    room = width - LABEL_WIDTH
    lines = [panels.headline(snapshot, width), panels.progress(snapshot, width)]
    lines += labelled("score", [fit(panels.scores(snapshot)[:2], room)])
    lines += labelled("speed", [fit(panels.speed(snapshot)[:1], room)])
    lines += labelled("learners", [panels.health(snapshot)])
    warning = panels.last_warning(snapshot, room)
    return lines + (labelled("warning", [warning]) if warning else [])


def _small(snapshot: Snapshot, width: int, height: int, viewing: Viewing) -> list[Text]:
    """Stack all sections."""
    room = width - LABEL_WIDTH
    top = labelled("speed", [fit(panels.speed(snapshot), room)])
    top += labelled("score", [fit(panels.scores(snapshot), room)])
    top += panels.evaluation(snapshot, width)
    bottom = labelled("gossip", [panels.gossip_line(snapshot, room)])
    bottom += labelled("losses", [fit(panels.losses(snapshot), room)])
    bottom += labelled("limit", [panels.hint(snapshot, room)])
    free = height - len(top) - len(bottom)
    rows = table_rows(len(snapshot.learners), free - 6)
    free -= rows
    event_rows = max(1, min(2, free // 6))
    blank = [Text()] if free - event_rows >= 10 else []
    drawn = _chart(snapshot, width, free - event_rows - 3 * len(blank), viewing)
    bottom += labelled("events", panels.events(snapshot, room, event_rows))
    return [*top, *blank, *drawn, *blank, *table(snapshot, width, rows), *blank, *bottom]


def _medium(snapshot: Snapshot, width: int, height: int, viewing: Viewing) -> list[Text]:
    """Set the numbers beside the chart and the gossip beside the events, the learners between."""
    left = width - SIDE - GAP
    event_lines = _event_lines(snapshot, left, min(6, height // 6))
    low = _beside(event_lines, left, _gossip(snapshot, SIDE))
    rows = table_rows(len(snapshot.learners), height - len(low) - 16)
    band = height - len(low) - rows - 5
    top = _beside(_curve(snapshot, left, band, viewing), left, _numbers(snapshot, SIDE, band))
    return [Text(), *top, Text(), *_learners(snapshot, width, rows), Text(), *low]


def _large(snapshot: Snapshot, width: int, height: int, viewing: Viewing) -> list[Text]:
    """Put the chart and the learners at the left, everything else at the right."""
    side = width // 3
    left = width - side - GAP
    rows = table_rows(len(snapshot.learners), height - 11)
    band = height - rows - 4
    second = band // 2 if band >= ROWS_OF_TWO else 0
    main = _curve(snapshot, left, band - second, viewing)
    if second:
        main += _curve(snapshot, left, second, replace(viewing, metric=viewing.metric + 1))
    main += [Text()]
    main += _learners(snapshot, left, rows)
    rows_of_numbers = 14 if snapshot.evaluation is None else 16
    rest = [*_numbers(snapshot, side, rows_of_numbers), Text(), *_gossip(snapshot, side), Text()]
    rest += _event_lines(snapshot, side, height - len(rest) - 2)
    return [Text(), *_beside(main, left, rest)]


def _view(snapshot: Snapshot, width: int, height: int, viewing: Viewing) -> list[Text]:
    """Return the lines of any view but the overview, below the head."""
    match viewing.view:
        case "learners":
            rows = table_rows(len(snapshot.learners), height - 10)
            below = height - rows - 3
            drawn = _curve(snapshot, width, below, viewing)
            return [Text(), *_learners(snapshot, width, rows), *drawn]
        case "gossip":
            return [Text(), *gossip_view.gossip_view(snapshot, width, height - 1)]
        case "system":
            return [Text(), *system_view.system_view(snapshot, width, height - 1)]
        case "events":
            lines = panels.events(snapshot, width, height - 2, viewing.back)
            return [Text(), *titled("events", width), *(Text(line) for line in lines)]
        case "game":
            return [Text(), *game_view.game_view(snapshot, width, height - 1, viewing.colour)]
    return [Text(), *help_view.help_view(snapshot, width)]


def _chart(snapshot: Snapshot, width: int, rows: int, viewing: Viewing) -> list[Text]:
    """Return the chart of the chosen metric; any but the score under its name."""
    known = known_metrics(snapshot)
    metric = known[viewing.metric % len(known)]
    if metric is known[0]:
        return metric_chart(snapshot, metric, width, rows)
    title = Text(metric.title.center(width).rstrip(), "dim")
    return [title, *metric_chart(snapshot, metric, width, rows - 1)] if rows > 2 else []


def _curve(snapshot: Snapshot, width: int, rows: int, viewing: Viewing) -> list[Text]:
    """Return the chart of the chosen metric under a title, with the keys of its lines."""
    known = known_metrics(snapshot)
    metric = known[viewing.metric % len(known)]
    lines = lines_of(snapshot, metric)
    title = Text(f"{metric.title} ", "bold")
    if metric.per_learner and len(lines) > 1:
        for line in lines[: min(8, len(snapshot.learners))]:
            title.append("─", line.style)
            title.append(f"{lines.index(line)} ", "dim")
        if len(lines) > len(snapshot.learners):
            title.append("━", "bold cyan").append("all ", "dim")
    title.append("─" * max(0, width - title.cell_len), "bright_black")
    return [title, *metric_chart(snapshot, metric, width, rows - 1)]


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
