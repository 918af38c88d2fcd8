"""events.jsonl: what happened in a run, one JSON line per event, over all of its attempts.

    Recorder.log_event --EventLog--> events.jsonl --read_events--> galamp show

Written by the supervisor at the moment of the event; read by anyone, also while the run lives. A
killed process leaves at most one incomplete line; readers skip it and the next writer removes it.
A disk that refuses costs events, never the run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from galamp.core.disk import Where, as_named, finite, open_plain
from galamp.storage.run_logs import AppendOnly, Warn

MAX_CHARACTERS = {"kind": 40, "who": 200, "text": 2000, "cause": 2000, "command": 4000}
"""Longest value of each field of text; a longer one loses its middle."""
MAX_LINE_BYTES = 131_072
"""No line is longer: a character takes 12 bytes at most."""
KEPT_OF_END = 500
"""Characters of the end that a shortened text keeps."""


@dataclass(frozen=True)
class KeptEvent:
    """One line of events.jsonl.

    Attributes:
        time: date and time of the wall clock, in ISO 8601, with the offset from UTC.
        start: number of the start of the run, from 1, as in metrics.jsonl.
        elapsed_s: seconds since this start of the run.
        wall_s: training time over all starts; what was lost with a killed start does not count.
        kind: one word, such as `start`, `restart`, `checkpoint`, `end`.
        who: the process that it happened to, such as `learner 3`; empty where it was the run.
        text: what happened, as the dashboard shows it.
        cause: why, where there is a cause.
        command: the command line that began this start; empty in all other events.
    """

    time: str = ""
    start: int = 0
    elapsed_s: float = 0.0
    wall_s: float = 0.0
    kind: str = "notice"
    who: str = ""
    text: str = ""
    cause: str = ""
    command: str = ""


class EventLog:
    """Writer of events.jsonl in one start of a run; each event is written immediately."""

    def __init__(self, path: Path, start: int, warn: Warn, where: Where = as_named) -> None:
        """Append to the file in start number `start` of the run."""
        self._file, self._start = AppendOnly(path, warn, where), start

    def append(self, time_s: float, elapsed_s: float, text: str, **more: str | float) -> None:
        """Add an event.

        Args:
            time_s: time.time() when it happened.
            elapsed_s: seconds since this start of the run.
            text: what happened.
            more: other fields of `KeptEvent`; empty ones are left out.
        """
        time = datetime.fromtimestamp(time_s).astimezone().isoformat(timespec="milliseconds")
        row: dict[str, Any] = {"time": time, "start": self._start, "elapsed_s": elapsed_s}
        row |= more | {"text": text}
        kept = {name: _bounded(name, value) for name, value in row.items() if value != ""}
        self._file.append(json.dumps(finite(kept), allow_nan=False).encode() + b"\n")


def read_events(path: Path) -> Iterator[KeptEvent]:
    """Yield the events of events.jsonl; invalid or incomplete lines are skipped.

    A file that cannot be read has no events. Lines of an older galamp lack some fields.
    """
    with contextlib.suppress(OSError), open_plain(path) as file:
        whole = True
        while line := file.readline(MAX_LINE_BYTES):
            begins, whole = whole, line.endswith(b"\n")
            if begins and whole and (event := _event(line)) is not None:
                yield event


def _bounded(name: str, value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    most = MAX_CHARACTERS.get(name)
    if most is None or not isinstance(value, str) or len(value) <= most:
        return value
    end = min(KEPT_OF_END, most // 2)
    return f"{value[: most - end - 5]} ... {value[-end:]}"


def _event(line: bytes) -> KeptEvent | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return None
    return KeptEvent(**{name: row[name] for name in _TYPES if _fits(row, name)})


def _fits(row: dict[str, Any], name: str) -> bool:
    return type(row.get(name)) in _TYPES[name]


_TYPES: dict[str, tuple[type, ...]] = {
    "start": (int,),
    "elapsed_s": (int, float),
    "wall_s": (int, float),
    **dict.fromkeys(("time", "kind", "who", "text", "cause", "command"), (str,)),
}
