"""What is left of a process that has ended, in words: its own report, the end of its log, a signal.

    child: write_report --file--> read_report --> ChildProcess.failure
    child: log          --------> tail        -----^

Nothing here raises, whatever a file holds: a run folder may have come from somebody else.
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

from galamp.core.errors import GalampError

MAX_REPORT_BYTES = 2**20
MAX_CAUSE, MAX_DETAILS_BYTES = 2_000, 600_000
"""So many characters of a cause, and bytes of a traceback's end, are reported: of one character
JSON makes up to twelve bytes."""


class Report(NamedTuple):
    """What a child has told of its own end: one line, its traceback, whether it meant to leave."""

    cause: str
    details: str
    deliberate: bool


def report_of(error: BaseException) -> Report:
    """Return what is to be told of an error that ends a child; of its making nothing can fail."""
    known = isinstance(error, GalampError)
    try:
        text = str(error)
    except Exception:
        text = "(its own words cannot be had: they raise an error, too)"
    cause = f"failed: {text}" if known else f"raised {type(error).__name__}: {text}"
    details = "".join(traceback.format_exception(error))
    line = " ".join(cause[:MAX_CAUSE].split())  # CUDA's own words are several lines
    return Report(line, _end(details, MAX_DETAILS_BYTES), known)


def _end(text: str, most_bytes: int) -> str:
    """Return the end of a text that JSON makes no more than so many bytes of."""
    text = text[-most_bytes:]
    while len(json.dumps(text)) > most_bytes:
        text = text[len(text) // 8 + 1 :]
    return text


def write_report(path: Path, life: str, report: Report, time_s: float) -> None:
    """Leave a report of the life named `life`, beneath its details on standard error.

    Raises:
        OSError: the disk refuses.
    """
    sys.stderr.write(report.details)
    sys.stderr.flush()
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with open(draft, "x") as file:
        json.dump({"life": life, **report._asdict(), "time": time_s}, file)
    draft.replace(path)


def read_report(path: Path, life: str) -> Report | None:
    """Return the report of the life named `life`; None if there is none, or it cannot be that one.

    What another life, of a former start as well, has left under the same name is none; nor is a
    link, a pipe, what is too large, or what is written in any other way than `write_report` does.
    """
    try:
        told = json.loads(_content(path))
        right = told["life"] == life and type(told["deliberate"]) is bool
        cause, details = told["cause"], told["details"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None
    if not right or type(cause) is not str or type(details) is not str:
        return None
    return Report(cause, details, told["deliberate"])


def _content(path: Path) -> bytes:
    """Return what a file holds, if it is a file and not too large."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as stream:
        known = os.fstat(file)
        if not stat.S_ISREG(known.st_mode) or known.st_size > MAX_REPORT_BYTES:
            raise OSError("no report")
        return stream.read(MAX_REPORT_BYTES)


def tail(log: str, most_bytes: int = 8192) -> str:
    """Return the end of a log, reading no more than that; nothing where it cannot be read."""
    try:
        with open(os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most_bytes))
            return stream.read(most_bytes).decode(errors="replace")
    except OSError:
        return ""


def signal_name(number: int) -> str:
    """Return the name of a signal; the standard library knows two of the real-time signals only."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return f"signal {number}"
