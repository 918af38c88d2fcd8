"""History of a run's metrics: the rows that count, as columns of numbers.

    metrics.jsonl --update--> RunHistory --column--> one number per row, NaN where it is unknown

Read by the commands that draw and compare runs, also while the run goes on: `update` reads what
was written since. A resumed run supersedes the rows beyond its checkpoint, as in `run_logs.curve`.
A row takes 8 bytes per metric, so days of training fit into memory. Nothing is written.
"""

from __future__ import annotations

import contextlib
import math
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galamp.core.disk import open_plain
from galamp.storage.run_logs import is_amount, is_count, rows_in

STEP = "global_step"
FRAMES = "emulator_frames"
WALL_S = "wall_s"
RESTARTS = "charts/restarts"
START = "start"
FORMER = {"gossip/dropped": "gossip/overwritten"}
"""Names of metrics in the files of older versions, and what they are called now."""
MAX_NAMES = 100_000
"""Metrics beyond this number are left out: a thousand learners have a tenth of it."""

Column = NDArray[np.float64]


class RunHistory:
    """The rows of one metrics.jsonl that count.

    Attributes:
        resumes: indices of the first row of each start after the first; the last may be the number
            of rows, where a start has not written its first row yet.
    """

    def __init__(self, path: Path) -> None:
        """Read the rows of `path`; a file that cannot be read has none."""
        self._path = path
        self._columns: dict[str, array[float]] = {STEP: array("d")}
        self._start: object = None
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self.resumes: list[int] = []
        self.update()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._columns[STEP])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in the order of their first appearance."""
        return tuple(self._columns)

    def column(self, name: str) -> Column:
        """Return a value per row, NaN where there is none."""
        values = self._columns.get(name)
        return np.array(values) if values is not None else np.full(len(self), np.nan)

    def restarts(self) -> list[int]:
        """Return the index of each row since whose predecessor a process was restarted."""
        counts = np.nan_to_num(self.column(RESTARTS))
        return np.flatnonzero(np.diff(counts, prepend=0.0) > 0).tolist()

    def update(self) -> bool:
        """Read what was written since the last call; returns whether there was anything."""
        with contextlib.suppress(OSError), open_plain(self._path) as file:
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset:
                self._forget()
            self._file = found.st_dev, found.st_ino
            file.seek(self._offset)
            for row in rows_in(file):
                self._add(row)
            before, self._offset = self._offset, file.tell()
            return self._offset > before
        return False

    def _forget(self) -> None:
        """Begin anew: another file has taken the place of the one that was read."""
        self._columns = {STEP: array("d")}
        self._start, self._offset, self.resumes = None, 0, []

    def _add(self, row: dict[str, Any]) -> None:
        step = row.get(STEP)
        if not is_count(step):
            return
        # The first row of a start may be lost to a full disk; any other one is enough.
        if "resumed_from" in row or row.get(START) != self._start:
            self._resume(step)
        self._start = row.get(START)
        if "resumed_from" not in row:
            self._append(row)

    def _resume(self, step: int) -> None:
        """Drop the rows beyond `step`, and note that a start begins, unless it is the first."""
        steps = self._columns[STEP]
        kept = len(steps)
        while kept and steps[kept - 1] > step:
            kept -= 1
        for values in self._columns.values():
            del values[kept:]
        self.resumes = [at for at in self.resumes if at < kept]
        if kept:
            self.resumes.append(kept)

    def _append(self, row: dict[str, Any]) -> None:
        rows = len(self)
        row = {FORMER.get(name, name): value for name, value in row.items()}
        for name, value in row.items():
            if name not in self._columns and is_amount(value) and len(self._columns) < MAX_NAMES:
                self._columns[name] = array("d", [math.nan]) * rows
        for name, values in self._columns.items():
            value = row.get(name)
            values.append(float(value) if is_amount(value) else math.nan)
