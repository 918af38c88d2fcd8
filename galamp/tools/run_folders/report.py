"""Report of a run for `galamp show`: commands, settings, events, evaluations, files, what is next.

    RUN --sections--> titles with lines of text, below the picture
        --as_json---> plain values

Everything is read from the run's files, also while it runs; what is damaged is left out, or named.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from galamp.core.disk import finite
from galamp.core.errors import UserError
from galamp.core.sanitize import clean
from galamp.storage.eval_log import read_evaluations
from galamp.storage.event_log import KeptEvent, read_events
from galamp.storage.run_folder import EVENTS
from galamp.telemetry.display.text import clip, duration
from galamp.tools.run_folders import listing
from galamp.tools.run_folders.evaluations import evaluation_files, evaluations
from galamp.tools.run_folders.next_steps import next_steps
from galamp.tools.run_folders.record import RunRecord
from galamp.tools.run_folders.run_settings import differing, flags_of, wrapped
from galamp.tools.run_folders.sizes import size_of, size_text

MAX_COMMANDS = 100
MAX_FILES = 40
Section = tuple[str, list[str]]


class History(NamedTuple):
    """What happened in a run: its last commands, its last events, and the number of all events."""

    commands: list[str]
    events: list[KeptEvent]
    number: int


def history(events: Iterable[KeptEvent], newest: int) -> History:
    """Return the last commands and the `newest` events."""
    commands: deque[str] = deque(maxlen=MAX_COMMANDS)
    kept: deque[KeptEvent] = deque(maxlen=newest)
    number = 0
    for event in events:
        number += 1
        kept.append(event)
        if event.command:
            commands.append(event.command)
    return History(list(commands), list(kept), number)


def sections(record: RunRecord, newest: int, width: int) -> list[Section]:
    """Return the sections that have something to tell: titles, and lines that are clean.

    Args:
        record: the run.
        newest: number of events to show.
        width: width of the lines that can be cut or wrapped; commands are kept whole, to be copied.
    """
    past = history(read_events(record.path / EVENTS), newest)
    ended = record.summary.get("reason") or record.summary.get("failure")
    parts = [
        ("why it ended", [clean(str(ended))] if ended else []),
        ("commands, one per start", [clean(command) for command in past.commands]),
        *_settings(record, width),
        (_title(past), [line for event in past.events for line in _event_lines(event, width)]),
        ("evaluations", [clip(line, width) for line in evaluations(record.path)]),
        ("files", _files(record.path)),
        ("next", [line for step in next_steps(record) for line in _step(*step)]),
    ]
    return [(title, lines) for title, lines in parts if lines]


def as_json(record: RunRecord, newest: int) -> dict[str, Any]:
    """Return the report as plain values, with the `newest` events."""
    past = history(read_events(record.path / EVENTS), newest)
    try:
        settings = [value for part in differing(record.config) for value in part]
    except UserError:
        settings = []
    values: dict[str, Any] = finite({
        **listing.as_json(record),
        "summary": record.summary or None,
        "settings": {setting.flag: value for setting, value in settings},
        "commands": past.commands,
        "events": [dataclasses.asdict(event) for event in past.events],
        "evaluations": [path.name for path in evaluation_files(record.path)],
        "evaluations_while_training": [
            dataclasses.asdict(each) for each in read_evaluations(record.path)
        ],
        "next": [command for command, _ in next_steps(record)],
    })  # fmt: skip
    return values


def _settings(record: RunRecord, width: int) -> list[Section]:
    try:
        found = differing(record.config)
    except UserError as error:
        why = [f"config.json cannot be used: {clean(line)}" for line in error.problems]
        return [("settings", why)]
    return [
        ("settings that differ from the defaults", wrapped(flags_of(found.given), width)),
        ("chosen for this run, by galamp or by flags", wrapped(flags_of(found.open), width)),
    ]


def _title(past: History) -> str:
    shown = len(past.events)
    if shown == past.number:
        return "events"
    return f"events, the last {shown} of {past.number} (all: --events {past.number})"


def _event_lines(event: KeptEvent, width: int) -> list[str]:
    """Return time of day, training time and text of an event; a long text takes more lines."""
    when = clean(event.time[:19].replace("T", " "))
    head = f"{when:19}  {duration(event.wall_s):>9}  "
    return textwrap.wrap(
        clean(event.text), width, initial_indent=head, subsequent_indent=" " * len(head)
    ) or [head]


def _files(run: Path) -> list[str]:
    try:
        entries = sorted(run.iterdir())
    except OSError:
        return []
    lines = [
        f"{size_text(size_of(path)):>10}  {clean(path.name)}{'/' if os.path.isdir(path) else ''}"
        for path in entries[:MAX_FILES]
    ]
    more = len(entries) - len(lines)
    return [*lines, f"… and {more} more"] if more else lines


def _step(command: str, what: str) -> tuple[str, str]:
    return clean(command), f"    {what}"
