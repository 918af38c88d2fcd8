"""Exit reports: how a process has ended, from its own report, the end of its log, or its signal.

    child: write_report --file--> read_report --> Child.failure
    child: log          --------> tail        -----^

Reading never raises, whatever a file holds: a run folder may come from another person.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from galamp.core.decode import Limits, decode
from galamp.core.errors import GalampError
from galamp.core.json_values import DecodeError, json_object

MAX_REPORT_BYTES = 2**20
MAX_CAUSE, MAX_DETAILS_BYTES = 2_000, 600_000
"""Most characters of a cause, and most JSON bytes of a traceback's end: one character has up to
twelve bytes in JSON."""
LIMITS = Limits(characters=MAX_REPORT_BYTES, more_fields=True)


class Report(NamedTuple):
    """Report of a child on its own end: one line, its traceback, and whether galamp raised it."""

    cause: str
    details: str
    deliberate: bool


def report_of(error: BaseException) -> Report:
    """Return the report of an error that ends a child; never raises."""
    known = isinstance(error, GalampError)
    try:
        text = str(error)
    except Exception:
        text = "(its text is unknown: str() of the error raises an error, too)"
    cause = f"failed: {text}" if known else f"raised {type(error).__name__}: {text}"
    details = "".join(traceback.format_exception(error))
    line = " ".join(cause[:MAX_CAUSE].split())  # CUDA's errors have several lines
    return Report(line, _end(details, MAX_DETAILS_BYTES), known)


def _end(text: str, most_bytes: int) -> str:
    """Return the end of a text that has at most `most_bytes` bytes in JSON."""
    text = text[-most_bytes:]
    while len(json.dumps(text)) > most_bytes:
        text = text[len(text) // 8 + 1 :]
    return text


def write_report(path: Path, incarnation_id: str, report: Report, time_s: float) -> None:
    """Write the report of the incarnation `incarnation_id`; its details also go to standard error.

    Raises:
        OSError: the disk refuses.
    """
    with contextlib.suppress(OSError, ValueError):  # on a full disk, or closed
        sys.stderr.write(report.details)
        sys.stderr.flush()
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with open(draft, "x") as file:
        json.dump({"incarnation": incarnation_id, **report._asdict(), "time": time_s}, file)
    draft.replace(path)


def read_report(path: Path, incarnation_id: str) -> Report | None:
    """Return the report of the incarnation `incarnation_id`; None if there is no valid one.

    A file of another incarnation, also of an earlier start, is not valid; nor is a link, a pipe, a
    file that is too large, or one in a format other than that of `write_report`.
    """
    try:
        values = json_object(_content(path))
        report = decode(Report, values, LIMITS)
    except (OSError, DecodeError):
        return None
    return report if values.get("incarnation") == incarnation_id else None


def _content(path: Path) -> bytes:
    """Return the content of a plain file that is not too large.

    Raises:
        OSError: it cannot be read, is no plain file, or is too large.
    """
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as stream:
        known = os.fstat(file)
        if not stat.S_ISREG(known.st_mode) or known.st_size > MAX_REPORT_BYTES:
            raise OSError("no report")
        return stream.read(MAX_REPORT_BYTES)


def tail(log: str, most_bytes: int = 8192) -> str:
    """Return the last `most_bytes` of a log; "" if it cannot be read."""
    try:
        with open(os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most_bytes))
            return stream.read(most_bytes).decode(errors="replace")
    except OSError:
        return ""


def signal_name(number: int) -> str:
    """Return the name of a signal, also of real-time signals without a name in Python."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return f"signal {number}"
