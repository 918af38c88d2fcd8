"""List of runs: a line for each, the newest first.

folder --runs_in--> RunRecord of each --table, as_json--> lines of text, or plain values
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from galamp.core.errors import UserError
from galamp.core.sanitize import clean
from galamp.storage.links import LATEST
from galamp.telemetry.display.text import UNKNOWN, clip, count, duration, score
from galamp.tools.run_folders.record import RunRecord, is_run, read_record
from galamp.tools.run_folders.sizes import size_of, size_text

TITLES = ("run", "game", "learners", "steps", "score", "state", "age", "size")
LEFT = ("run", "game", "state")
"""Columns of text; numbers stand at the right."""
MIN_NAME_WIDTH = 16
"""Cells that remain of a name where the terminal is narrow."""
GAP = 2


def runs_in(folder: Path) -> list[RunRecord]:
    """Return the runs in a folder of runs, or the one whose folder it is; the newest first.

    `latest` is left out: it is one of the runs.

    Raises:
        UserError: there is no such folder, or it cannot be listed.
    """
    if is_run(folder):
        return [read_record(folder)]
    try:
        with os.scandir(folder) as entries:
            found = [Path(each.path) for each in entries if each.name != LATEST]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; expected a folder of runs") from None
    records = [read_record(path) for path in found if is_run(path)]
    return sorted(records, key=lambda record: (-record.changed_s, record.path.name))


def table(records: Sequence[RunRecord], width: int | None) -> list[str]:
    """Return a line of titles and one per run; none is wider than `width`, where that is known."""
    rows = [TITLES, *map(_cells, records)]
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(TITLES))]
    if width is not None:
        spare = width - sum(widths[1:]) - GAP * (len(widths) - 1)
        widths[0] = min(widths[0], max(MIN_NAME_WIDTH, spare))
    lines = []
    for row in rows:
        cells = [
            _padded(clip(cell, wide), wide, left=title in LEFT)
            for title, cell, wide in zip(TITLES, row, widths, strict=True)
        ]
        line = (" " * GAP).join(cells).rstrip()
        lines.append(line if width is None else clip(line, width))
    return lines


def as_json(record: RunRecord) -> dict[str, Any]:
    """Return a run as plain values: age in seconds, size in bytes."""
    return {
        "run": str(record.path),
        "env_id": record.env_id,
        "learners": record.learners,
        "agent_steps": record.agent_steps,
        "total_steps": record.total_steps,
        "mean_return_100": record.score,
        "state": str(record.state),
        "age_s": round(age_s(record), 1),
        "bytes": size_of(record.path),
    }


def age_s(record: RunRecord) -> float:
    """Return the seconds since the run's files were last changed, by the wall clock."""
    return max(0.0, datetime.now().timestamp() - record.changed_s)


def _cells(record: RunRecord) -> tuple[str, ...]:
    steps = UNKNOWN if record.agent_steps is None else count(record.agent_steps)
    total = "" if record.total_steps is None else f" of {count(record.total_steps)}"
    return (
        clean(record.path.name),
        clip(clean(record.env_id.removeprefix("ALE/")), 30),
        UNKNOWN if record.learners is None else str(record.learners),
        steps + total,
        score(record.score),
        record.state,
        duration(age_s(record)),
        size_text(size_of(record.path)),
    )


def _padded(text: str, width: int, *, left: bool) -> str:
    return set_cell_size(text, width) if left else " " * (width - cell_len(text)) + text
