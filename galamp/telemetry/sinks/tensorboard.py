"""TensorBoard event files as a metric sink; needs the package tensorboard, and no TensorFlow.

    row --TensorBoardSink--> EventFile --> tensorboard/events.out.tfevents.<start>
    metrics.jsonl --galamp export-logs--> EventFile --> the same, afterwards

One file per start. A start that goes on from an earlier step begins with the event by which
TensorBoard drops what former starts wrote beyond it, as `SummaryWriter(purge_step=...)` does.
`SummaryWriter` itself writes in a thread, which may not start, and whose disk errors come late.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from galamp.core.disk import open_to_append
from galamp.telemetry.sinks.base import MetricSink, Row, SinkContext
from galamp.telemetry.sinks.scalars import scalars, step_of

FOLDER = "tensorboard"


class TensorBoardSink(MetricSink):
    """Scalars in `tensorboard/`; `scalars` says which, and under which tags."""

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._began_s = time.monotonic()
        self._file = EventFile(context.start, context.from_step)

    def write(self, row: Row) -> None:
        """Add one event with all numbers of the row.

        Raises:
            OSError: the disk refuses; the row is lost, and the file is as it was.
        """
        folder = self.context.where(self.context.folder / FOLDER)
        if folder is not None:
            self._file.write(folder, row, self._now())

    def _now(self) -> float:
        """Return the time for people to read; a clock that is set meanwhile changes nothing."""
        return self.context.t_start + time.monotonic() - self._began_s


class EventFile:
    """The event file of one start of a run; it is made with its first row.

    Attributes:
        name: of the file; empty before the first row.
    """

    def __init__(self, start: int, from_step: int) -> None:
        """Prepare the file of start number `start`, which goes on from `from_step`."""
        self.name = ""
        self._start, self._from_step = start, from_step

    def write(self, folder: Path, row: Row, time_s: float) -> None:
        """Add one event with all numbers of the row, as float32 at step `global_step`.

        Args:
            folder: of event files; it is made where there is none.
            row: a row of metrics.
            time_s: date and time of the row, as of time.time().

        Raises:
            OSError: the disk refuses; the row is lost, and the file is as it was.
        """
        _make(folder)
        self.name = self.name or _new_name(folder, self._start)
        event = Event(wall_time=time_s, step=step_of(row))
        for tag, value in scalars(row):
            event.summary.value.add(tag=tag, simple_value=value)
        self._append(folder / self.name, event)

    def _append(self, path: Path, event: Event) -> None:
        """Add a record, whole or not at all; an empty file gets its header before it.

        Raises:
            OSError: see `write`.
        """
        file = open_to_append(path)
        try:
            size = os.fstat(file).st_size
            piece = _records([event] if size else [*self._header(event.wall_time), event])
            written = 0
            try:
                written = os.write(file, piece)
            finally:
                if written != len(piece):
                    os.ftruncate(file, size)
        finally:
            os.close(file)
        if written != len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _header(self, time_s: float) -> list[Event]:
        """Return the first events of a file: the format's version, and what is superseded."""
        header = [Event(wall_time=time_s, file_version="brain.Event:2")]
        if self._start > 1:
            start = SessionLog(status=SessionLog.START)
            # What stands at this very step or beyond is dropped; the row at the step itself stays.
            header.append(Event(wall_time=time_s, step=self._from_step + 1, session_log=start))
        return header


def _make(folder: Path) -> None:
    """Make the folder where there is none.

    Raises:
        OSError: the disk refuses, or a link or something else has its name.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a link, through which nothing is written", str(folder))


def _new_name(folder: Path, start: int) -> str:
    """Return the name of a file that is not there yet; TensorBoard reads files in this order.

    A start whose number was used before, as a full disk lost its rows, has a file of its own too.
    """
    name = f"events.out.tfevents.{start:010d}"
    names = (f"{name}.{number:04d}" for number in itertools.count())
    return next(each for each in names if not os.path.lexists(folder / each))


def _records(events: list[Event]) -> bytes:
    """Return events as the TFRecords of an event file."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
