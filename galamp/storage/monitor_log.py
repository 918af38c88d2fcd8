"""Monitor files of a run: a line per finished training episode, in Stable-Baselines3's form.

    episode --MonitorLog--> monitor/<i>.monitor.csv --read_monitor--> episodes

Runs in the supervisor, the one writer. A killed process leaves at most one incomplete line; readers
skip it and the next writer removes it. A file that is taken away while the run lives is begun
again; a damaged one is put aside, and kept.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from galamp.core.disk import Where, as_named, open_plain
from galamp.core.json_values import DecodeError, json_object
from galamp.storage.run_logs import AppendOnly, Warn, is_amount

MONITOR = "monitor"
"""The folder of monitor files."""
MAX_LINE_BYTES = 10_000
MAX_UNWRITTEN = 10_000
"""Number of episodes after which they are written, even if `flush` is hardly ever called."""

_OF_NO_FILE = (errno.EINVAL, errno.ENXIO)
"""Errors of open() for what is no regular file: a pipe, a folder; a socket."""


class MonitorEpisode(NamedTuple):
    """A finished episode.

    Attributes:
        ended_s: time.time() of its end.
        score: its true score.
        length: in agent steps.
    """

    ended_s: float
    score: float
    length: int


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
        warn: Warn,
        where: Where = as_named,
    ) -> None:
        """Prepare the file; an existing one is continued, and keeps its own `t_start`.

        Args:
            path: `monitor/<i>.monitor.csv`, in a folder that exists.
            env_id: environment.
            t_start: time.time() at the start of the run.
            warn: called once for a disk error.
            where: returns its current path.
        """
        self._file = AppendOnly(path, warn, where)
        self._rows: list[tuple[float, int, float]] = []
        self._env_id, self._t_start = env_id, t_start
        self._is_known = self._has_header = False
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
        if rows or not self._has_header:
            written = self._file.append("".join(map(self._line, rows)).encode(), self._header())
            self._has_header |= written

    def _header(self) -> bytes:
        header = json.dumps({"t_start": self._t_start, "env_id": self._env_id})
        return f"#{header}\nr,l,t\n".encode()

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
                _put_aside(path)
            else:
                self._t_start, self._has_header = resume_point, True
        self._is_known = True


def _put_aside(path: Path) -> None:
    """Move a damaged file to its first free name, `.damaged` or `.damaged-N`.

    Raises:
        OSError: it cannot be moved.
    """
    place = path.with_name(f"{path.name}.damaged")
    numbers = itertools.count(1)
    while os.path.lexists(place):
        place = path.with_name(f"{path.name}.damaged-{next(numbers)}")
    path.rename(place)


def _monitor_start(path: Path) -> float | None:
    """Return `t_start` of an existing monitor file; None if its header is invalid.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open_plain(path) as file:
            return _start_of(file)
    except OSError as error:
        if error.errno in _OF_NO_FILE:
            return None
        raise


def _start_of(file: BinaryIO) -> float | None:
    """Return `t_start` of an open file, which is left after its header; None if that is invalid."""
    first, columns = file.readline(MAX_LINE_BYTES), file.readline(MAX_LINE_BYTES)
    try:
        start = json_object(first[1:]).get("t_start")
    except DecodeError:
        return None
    sound = first.startswith(b"#") and columns == b"r,l,t\n"
    return float(start) if sound and is_amount(start) else None


def read_monitor(path: Path) -> Iterator[MonitorEpisode]:
    """Yield the episodes of a monitor file; invalid or incomplete lines are skipped.

    A file that cannot be read, or whose header is invalid, has none.
    """
    with contextlib.suppress(OSError), open_plain(path) as file:
        start_s = _start_of(file)
        while start_s is not None and (line := file.readline(MAX_LINE_BYTES)):
            if line.endswith(b"\n") and (episode := _episode(line, start_s)) is not None:
                yield episode


def _episode(line: bytes, start_s: float) -> MonitorEpisode | None:
    """Return the episode of a line; None if it has none."""
    try:
        score, length, after_s = line.split(b",")
        found = MonitorEpisode(start_s + float(after_s), float(score), int(length))
    except ValueError:
        return None
    return found if is_amount(found.ended_s) and is_amount(found.score) else None
