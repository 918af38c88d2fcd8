"""Rows of a run's metrics that count, over all of its starts, with the time of each.

    metrics.jsonl --RunHistory--> columns --+
    events.jsonl --start's clock------------+--timed_rows--> (time, row), ...

Rows have the training time only. Events have that and the date, which gives each start's clock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from galamp.storage.event_log import read_events
from galamp.storage.run_folder import EVENTS, METRICS
from galamp.storage.run_history import START, WALL_S, RunHistory
from galamp.telemetry.sinks.base import Row


class TimedRow(NamedTuple):
    """A row of metrics, and its time as of time.time()."""

    time_s: float
    row: Row


def timed_rows(run: Path) -> Iterator[TimedRow]:
    """Yield the rows of the run in `run` that count, in order; none where there are no metrics."""
    history = RunHistory(run / METRICS)
    names = [name for name in history.names if name != START]
    columns = [history.column(name) for name in names]
    starts, walls = history.column(START), history.column(WALL_S)
    begins = began_s(run)
    last = next(reversed(begins.values()), None)
    for at in range(len(history)):
        values = {name: float(column[at]) for name, column in zip(names, columns, strict=True)}
        row = {name: value for name, value in values.items() if math.isfinite(value)}
        begun = begins.get(int(starts[at]) if math.isfinite(starts[at]) else 0, last)
        if begun is None:
            begun = _changed_s(run / METRICS) - float(walls[-1])
        yield TimedRow(begun + float(walls[at]) if math.isfinite(walls[at]) else begun, row)


def began_s(run: Path) -> dict[int, float]:
    """Return number of a start -> time.time() at which its training time would be 0."""
    found: dict[int, float] = {}
    for event in read_events(run / EVENTS):
        try:
            # The last event counts: at the first ones, a resume has not read its former time yet.
            found[event.start] = datetime.fromisoformat(event.time).timestamp() - event.wall_s
        except ValueError:
            continue
    return found


def _changed_s(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
