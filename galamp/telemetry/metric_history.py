"""History of some metrics over a whole run, for the charts of the dashboard: of bounded size.

    row of metrics --add--> MetricHistoryBuilder --reading--> MetricHistory --> Snapshot
    metrics.jsonl --rows_before--^                           (at a resume)

Runs in the supervisor. Numbers are kept with five significant digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from galamp.storage.run_history import STEP, RunHistory
from galamp.telemetry.display.chart import CHARTED, CHARTED_PER_LEARNER
from galamp.telemetry.snapshot import MetricHistory

MAX_ROWS = 240
MAX_LEARNERS = 16
"""Learners whose own metrics are kept."""

_numbers = itertools.count(1)


def names_of(learners: int) -> tuple[str, ...]:
    """Return the metrics that are kept."""
    own = [
        f"learner{r}/{n}" for r in range(min(learners, MAX_LEARNERS)) for n in CHARTED_PER_LEARNER
    ]
    return (*CHARTED, *own)


class MetricHistoryBuilder:
    """Rows at equal distances, and the newest one, which the next one may replace."""

    def __init__(self, learners: int) -> None:
        """Keep the metrics of `names_of(learners)`."""
        self._names = names_of(learners)
        self._rows: list[tuple[int, tuple[float | None, ...]]] = []
        self._every, self._since = 1, 0
        self.reading: MetricHistory | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics, and make a new reading."""
        self._add(row)
        self._read()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the rows of earlier attempts."""
        for row in rows:
            self._add(row)
        self._read()

    def _add(self, row: Mapping[str, Any]) -> None:
        if self._since:
            self._rows.pop()
        values = tuple(_rounded(row.get(name)) for name in self._names)
        self._rows.append((int(row[STEP]), values))
        self._since = (self._since + 1) % self._every
        if len(self._rows) > MAX_ROWS and not self._since:
            self._rows = self._rows[(len(self._rows) - 1) % 2 :: 2]
            self._every *= 2

    def _read(self) -> None:
        columns = {}
        for at, name in enumerate(self._names):
            column = tuple(values[at] for _, values in self._rows)
            if any(value is not None for value in column):
                columns[name] = column
        steps = tuple(step for step, _ in self._rows)
        self.reading = MetricHistory(next(_numbers), steps, columns)


def rows_before(path: Path, learners: int) -> list[dict[str, Any]]:
    """Return rows of metrics.jsonl that a resumed run goes on from, at most some hundreds."""
    history = RunHistory(path)
    columns = {name: history.column(name).tolist() for name in (STEP, *names_of(learners))}
    count = len(history)
    every = -(-count // MAX_ROWS) or 1
    return [
        {name: column[at] for name, column in columns.items()}
        for at in range((count - 1) % every, count, every)
    ]


def _rounded(value: object) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
