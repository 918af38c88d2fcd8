"""Growing files of a run: rows of metrics, and a line per finished game.

Runs in the supervisor, the one writer; resumed runs, plots and evaluation read them.

    row --MetricsLog--> metrics.jsonl --read_metrics, curve--> rows one by one, learning curve
    event --EventLog--> events.jsonl, in `event_log`
    episode --MonitorLog--> monitor/<i>.monitor.csv

A killed process leaves at most one incomplete line; readers skip it and the next writer removes it.
A failing disk costs rows, never the run. Only one row is in memory, whatever the size of a file.
Nothing is written through a link, and nothing into a run folder that is no longer this run's:
`RunFolder.where`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from galamp.core.disk import Where, as_named, finite, open_plain, open_to_append
from galamp.storage.learning_curve import Curve

RETURN = "charts/episodic_return"
MONITOR = "monitor"
"""The folder of monitor files."""

TAIL_BYTES = 1_000_000
"""Size of the pieces in which a file's end is read."""

LINE_LIMIT_BYTES = 1_000_000
"""No row is longer: that of a thousand learners takes less than half of it."""

MAX_UNWRITTEN = 10_000
"""Number of episodes after which they are written, even if `flush` is hardly ever called."""

MAX_STARTS = 2**31
COUNT_LIMIT = 2**53
AMOUNT_LIMIT = 1e300
"""Counts and amounts beyond these limits were never written by a run."""

_OF_NO_FILE = (errno.EINVAL, errno.ENXIO)
"""Errors of open() for what is no regular file: a pipe, a folder; a socket."""

Complain = Callable[[str], None]
"""Called with one line about a disk error, once per file."""


class AppendOnly:
    """A file of lines; whole pieces are appended, each by one write; never raises an OSError."""

    def __init__(self, path: Path, complain: Complain, where: Where = as_named) -> None:
        """Append to the file `path`, in a folder that exists; `where` returns its current path."""
        self._path, self._where = path, where
        self.failed = 0
        """Number of pieces that the disk refused."""
        self._complain = complain

    @property
    def path(self) -> Path | None:
        """Where the file is now; None if it must not be written."""
        return self._where(self._path)

    def append(self, piece: bytes) -> bool:
        """Append `piece`, which ends with a newline; returns whether it was written completely."""
        path = self.path
        if path is None:
            self.failed += 1
            return False
        try:
            file = open_to_append(path)
            try:
                self._add(file, piece)
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
            self._complain(f"{self._path}: {error.strerror}; what was to be added is lost")

    @staticmethod
    def _add(file: int, piece: bytes) -> None:
        size = _trim(file)
        written = os.write(file, piece)
        if written != len(piece):
            os.ftruncate(file, size)
            raise OSError(0, f"only {written} of {len(piece)} bytes could be written")


class MetricsLog:
    """metrics.jsonl: one row per `append`, each with the number of the start that wrote it."""

    def __init__(
        self, path: Path, from_step: int, complain: Complain, where: Where = as_named
    ) -> None:
        """Open the log of a run that resumes from `from_step` agent steps (0: a new run).

        The first row says so; it supersedes later rows of earlier starts.
        """
        self._file = AppendOnly(path, complain, where)
        self.start = next_start(path)
        """How many times the run was started, this one included."""
        self.append({"global_step": from_step, "resumed_from": from_step})

    @property
    def failed(self) -> int:
        """Rows that the disk refused."""
        return self._file.failed

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; values that are not finite become null."""
        text = json.dumps(finite(row | {"start": self.start}), allow_nan=False)
        self._file.append(text.encode() + b"\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of metrics.jsonl as written; invalid or incomplete lines are skipped.

    A file that cannot be read has no rows.
    """
    with contextlib.suppress(OSError), open_plain(path) as file:
        whole = True
        while line := file.readline(LINE_LIMIT_BYTES):
            begins, whole = whole, line.endswith(b"\n")
            if begins and whole and (row := _row(line)) is not None:
                yield row


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


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_count(value: object, limit: int = COUNT_LIMIT) -> TypeGuard[int]:
    """Return whether `value` is a count that a run can reach, in case of a damaged file."""
    return type(value) is int and 0 <= value < limit


def _is_amount(value: object) -> TypeGuard[float]:
    # A huge int is compared before the conversion, and NaN fails the comparison.
    return (type(value) is int or type(value) is float) and -AMOUNT_LIMIT < value < AMOUNT_LIMIT


def _last_start(path: Path) -> int:
    """Return the largest start number of all rows; 0 without rows."""
    last = last_row(path).get("start")
    if _is_count(last, MAX_STARTS):
        return last
    starts = (row.get("start") for row in read_metrics(path))
    return max((start for start in starts if _is_count(start, MAX_STARTS)), default=0)


def next_start(path: Path) -> int:
    """Return the number of the start that comes after all that metrics.jsonl tells of, from 1."""
    return 1 + _last_start(path)


def curve(path: Path) -> Curve:
    """Return the learning curve.

    A start that resumes from an older checkpoint supersedes the rows of earlier starts beyond it.
    """
    found = Curve()
    start: object = None
    for row in read_metrics(path):
        step, score = row.get("global_step"), row.get(RETURN)
        if not _is_count(step):
            continue
        # The first row of a start may be lost to a full disk; any other one is enough.
        if "resumed_from" in row or row.get("start") != start:
            found.cut(step)
        start = row.get("start")
        if _is_amount(score):
            found.add(step, float(score))
    return found


def monitor_name(learner: int) -> str:
    """Return the name of the file of a learner's episodes."""
    return f"{learner}.monitor.csv"


class MonitorLog:
    """Finished episodes of one simulator, in the form of Stable-Baselines3's Monitor.

    The first line is `#{"t_start": ..., "env_id": ...}`, then follow columns r (true score), l
    (length in agent steps), t (seconds since t_start).
    """

    def __init__(
        self,
        path: Path,
        env_id: str,
        t_start: float,
        complain: Complain,
        where: Where = as_named,
    ) -> None:
        """Prepare the file; an existing one is continued, and keeps its own `t_start`.

        Args:
            path: `monitor/<i>.monitor.csv`, in a folder that exists.
            env_id: environment.
            t_start: time.time() at the start of the run.
            complain: called once for a disk error.
            where: returns its current path.
        """
        self._file = AppendOnly(path, complain, where)
        self._rows: list[tuple[float, int, float]] = []
        header = json.dumps({"t_start": t_start, "env_id": env_id})
        self._header = f"#{header}\nr,l,t\n"
        self._t_start = t_start
        self._is_known = False
        with contextlib.suppress(OSError):
            self._inspect()

    @property
    def failed(self) -> int:
        """Number of flushes that the disk refused."""
        return self._file.failed

    def append(self, score: float, length: int, ended: float) -> None:
        """Add an episode that ended at time.time() `ended`; it is written by `flush` or later."""
        self._rows.append((float(score), length, ended))
        if len(self._rows) >= MAX_UNWRITTEN:
            self.flush()

    def flush(self) -> None:
        """Write the buffered episodes; if the disk refuses, they are lost."""
        rows, self._rows = self._rows, []
        try:
            self._inspect()
        except OSError as error:
            self._file.give_up(error)
            return
        content = self._header + "".join(map(self._line, rows))
        if content and self._file.append(content.encode()):
            self._header = ""

    def _line(self, row: tuple[float, int, float]) -> str:
        score, length, ended = row
        return f"{score:.10g},{length},{round(ended - self._t_start, 6)}\n"

    def _inspect(self) -> None:
        """Inspect the existing file, once: continue it, or move it aside.

        Raises:
            OSError: it cannot be inspected now.
        """
        if self._is_known or (path := self._file.path) is None:
            return
        try:
            resume_point = _monitor_start(path)
        except FileNotFoundError:
            pass
        else:
            if resume_point is None:
                path.replace(path.with_name(path.name + ".damaged"))
            else:
                self._t_start, self._header = resume_point, ""
        self._is_known = True


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


def _monitor_start(path: Path) -> float | None:
    """Return `t_start` of an existing monitor file; None if its header is invalid.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open_plain(path) as file:
            first, columns = file.readline(10_000), file.readline(10_000)
    except OSError as error:
        if error.errno in _OF_NO_FILE:
            return None
        raise
    try:
        start = json.loads(first[1:])["t_start"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = first.startswith(b"#") and columns == b"r,l,t\n" and _is_amount(start)
    return float(start) if sound else None
