"""Growing files of a run, of lines that are only appended; and one of them, the rows of metrics.

Runs in the supervisor, the one writer; resumed runs, plots and evaluation read them.

    row --MetricsLog--> metrics.jsonl --read_metrics, curve--> rows one by one, learning curve
    event --EventLog--> events.jsonl, in `event_log`
    episode --MonitorLog--> monitor/<i>.monitor.csv, in `monitor_log`

A killed process leaves at most one incomplete line; readers skip it and the next writer removes it.
A failing disk costs rows, never the run. Only one row is in memory, whatever the size of a file.
Nothing is written through a link, and nothing into a run folder that is no longer this run's:
`RunFolder.where`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from galamp.core.disk import Where, as_named, finite, open_plain, open_to_append
from galamp.core.json_values import DecodeError, is_number, is_whole, json_object
from galamp.storage.learning_curve import Curve

RETURN, EPISODES = "charts/episodic_return", "charts/episodes"

TAIL_BYTES = 1_000_000
"""Size of the pieces in which a file's end is read."""

BACK_BYTES = 16 * TAIL_BYTES
"""Most that is read of a file's end."""

LINE_LIMIT_BYTES = 1_000_000
"""No row is longer: that of a thousand learners takes less than half of it."""

MAX_START = 2**31 - 1
MAX_STEP = 2**53 - 1
LARGEST = 1e300
"""Numbers beyond these limits were never written by a run."""

Warn = Callable[[str], None]
"""Reports a disk error in one line, once per file."""


class AppendOnly:
    """A file of lines; whole pieces are appended, each by one write; never raises an OSError."""

    def __init__(self, path: Path, warn: Warn, where: Where = as_named) -> None:
        """Append to the file `path`, in a folder that exists; `where` returns its current path."""
        self._path, self._where = path, where
        self.failed = 0
        """Number of pieces that the disk refused."""
        self.is_gone = False
        """Whether the last piece was not written, since what it goes on from is gone."""
        self._warn = warn

    @property
    def path(self) -> Path | None:
        """Where the file is now; None if it must not be written."""
        return self._where(self._path)

    def append(self, piece: bytes, header: bytes = b"", *, goes_on: bool = False) -> bool:
        """Append `piece`, which ends with a newline; returns whether it was written completely.

        A file that is missing or empty begins with `header`, also where it was taken away since. A
        piece that `goes_on` from earlier ones is not written to such a file; see `is_gone`.
        """
        self.is_gone = False
        path = self.path
        if path is None:
            self.failed += 1
            return False
        try:
            file = open_to_append(path)
            try:
                if goes_on and _trim(file) == 0:
                    self.is_gone = True
                    return False
                self._add(file, piece, header)
            finally:
                os.close(file)
        except OSError as error:
            self.give_up(error)
            return False
        return True

    def give_up(self, error: OSError) -> None:
        """Count a lost piece."""
        self.failed += 1
        if self.failed == 1:
            self._warn(f"{self._path}: {error.strerror}; what was to be added is lost")

    @staticmethod
    def _add(file: int, piece: bytes, header: bytes) -> None:
        size = _trim(file)
        if size == 0:
            piece = header + piece
        written = os.write(file, piece)
        if written != len(piece):
            os.ftruncate(file, size)
            raise OSError(0, f"only {written} of {len(piece)} bytes could be written")


class MetricsLog:
    """metrics.jsonl: one row per `append`, each with the number of the start that wrote it."""

    def __init__(
        self, path: Path, start: int, from_step: int, warn: Warn, where: Where = as_named
    ) -> None:
        """Open the log for start number `start`, from `from_step` agent steps (0: a new run).

        The first row says so; it supersedes later rows of earlier starts.
        """
        self._file, self._start = AppendOnly(path, warn, where), start
        self.append({"global_step": from_step, "resumed_from": from_step})

    @property
    def failed(self) -> int:
        """Rows that the disk refused."""
        return self._file.failed

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; values that are not finite become null."""
        text = json.dumps(finite(row | {"start": self._start}), allow_nan=False)
        self._file.append(text.encode() + b"\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of metrics.jsonl as written; invalid or incomplete lines are skipped.

    A file that cannot be read has no rows.
    """
    with contextlib.suppress(OSError), open_plain(path) as file:
        yield from rows_in(file)


def rows_in(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the rows from where `file` stands; it is left before an incomplete last line."""
    whole, at = True, file.tell()
    while line := file.readline(LINE_LIMIT_BYTES):
        begins, whole = whole, line.endswith(b"\n")
        if whole:
            at = file.tell()
        if begins and whole and (row := _row(line)) is not None:
            yield row
    file.seek(at)


def last_row(path: Path) -> dict[str, Any]:
    """Return the last complete row of metrics.jsonl, read from its end; {} if there is none."""
    try:
        with open_plain(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).splitlines(keepends=True)
    except OSError:
        return {}
    rows = (_row(line) for line in reversed(lines) if line.endswith(b"\n"))
    return next((row for row in rows if row is not None), {})


def last_known_row(path: Path) -> dict[str, Any]:
    """Return the last row of metrics.jsonl; {} if there is none.

    The first row of a start has no values yet: it gets those of the last row that the start goes on
    from, if that is among the last `BACK_BYTES`.
    """
    rows = _rows_backwards(path)
    last = next(rows, {})
    if "resumed_from" not in last:
        return last
    limit = float("inf")
    for row in itertools.chain([last], rows):
        step = row.get("global_step")
        if not is_count(step):
            continue
        if "resumed_from" in row:  # a start without rows has superseded some, too
            limit = min(limit, step)
        elif step <= limit:
            return _going_on(row, step, last)
    return last


def _going_on(row: dict[str, Any], step: int, first: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a row, of `step` agent steps, as those at the `first` row of a start."""
    found = row | {name: first[name] for name in ("global_step", "start") if name in first}
    frames, now = row.get("emulator_frames"), first.get("global_step")
    if step and is_count(frames) and is_count(now):
        found["emulator_frames"] = frames // step * now
    return found


def _rows_backwards(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows among the last `BACK_BYTES` of metrics.jsonl, the last one first."""
    with contextlib.suppress(OSError), open_plain(path) as file:
        at = file.seek(0, os.SEEK_END)
        first, rest = max(0, at - BACK_BYTES), b""
        while at > first:
            before, at = at, max(first, at - TAIL_BYTES)
            file.seek(at)
            lines = (file.read(before - at) + rest).splitlines(keepends=True)
            rest = lines.pop(0) if at and lines else b""
            if len(rest) > LINE_LIMIT_BYTES:
                rest = b""
            while lines:
                line = lines.pop()
                if line.endswith(b"\n") and (row := _row(line)) is not None:
                    yield row


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        return json_object(line)
    except DecodeError:
        return None


def is_count(value: object, limit: int = MAX_STEP) -> TypeGuard[int]:
    """Return whether `value` is a count that a run can reach, in case of a damaged file."""
    return is_whole(value, 0, limit)


def is_amount(value: object) -> TypeGuard[float]:
    """Return whether `value` is a number that a run can write, in case of a damaged file."""
    return is_number(value, -LARGEST, LARGEST)


def last_start_in(path: Path) -> int:
    """Return the number of the last start with rows in metrics.jsonl, from 1; 0 without rows.

    That is the last row's; where it has none that can be right, the largest of all rows.
    """
    last = last_row(path).get("start")
    if is_count(last, MAX_START):
        return last
    starts = (row.get("start") for row in read_metrics(path))
    return max((start for start in starts if is_count(start, MAX_START)), default=0)


def curve(path: Path) -> Curve:
    """Return the learning curve.

    A start that resumes from an older checkpoint supersedes the rows of earlier starts beyond it.
    """
    found = Curve()
    start: object = None
    for row in read_metrics(path):
        step, score = row.get("global_step"), row.get(RETURN)
        if not is_count(step):
            continue
        # The first row of a start may be lost to a full disk; any other one is enough.
        if "resumed_from" in row or row.get("start") != start:
            found.cut(step)
        start = row.get("start")
        if is_amount(score):
            found.add(step, float(score))
    return found


def _trim(file: int) -> int:
    """Cut off an incomplete last line, which a killed process left; returns the new size."""
    size = kept = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    found = -1
    while kept and found < 0:
        first = max(0, kept - TAIL_BYTES)
        found = os.pread(file, kept - first, first).rfind(b"\n")
        kept = first + found + 1 if found >= 0 else first
    os.ftruncate(file, kept)
    return kept
