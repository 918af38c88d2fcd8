"""Attempts of a run: how often it was started, as its folder stores it.

    attempt n --attempt_entry--> config.json --last_attempt--> attempt n + 1 of a resumed run

Used by the supervisor, and by commands that read a run folder. config.json is written when an
attempt starts; summary.json, which is written at its end, has the number as well: a full disk may
have refused the config of an attempt that began with another number of learners. galamp before 0.2
stored it in neither: there it is that of the last rows of metrics.jsonl.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from galamp.core.errors import UserError
from galamp.core.json_values import is_whole
from galamp.storage.run_folder import CONFIG, METRICS, SUMMARY, read_json
from galamp.storage.run_logs import MAX_START, last_start_in

RESOLVED, ATTEMPT = "resolved", "attempt"
"""Where config.json has it: in the section of what the settings led to."""


def attempt_entry(number: int) -> dict[str, int]:
    """Return the entry for attempt `number`, from 1, in the section `resolved` of config.json."""
    return {ATTEMPT: number}


def last_attempt(run: Path) -> int:
    """Return the number of the run's last attempt, from 1; 0 if it was never started."""
    return max(last_begun(run), _count(_values(run / SUMMARY).get("start")) or 0)


def last_begun(run: Path) -> int:
    """Return the number of the last attempt whose config was written; 0 if there is none."""
    resolved = _values(run / CONFIG).get(RESOLVED)
    stored = _count(resolved.get(ATTEMPT)) if isinstance(resolved, dict) else None
    return last_start_in(run / METRICS) if stored is None else stored


def _values(path: Path) -> dict[str, Any]:
    """Return the values in a JSON file; {} if it is missing or damaged."""
    with contextlib.suppress(UserError):
        return read_json(path)
    return {}


def _count(value: object) -> int | None:
    """Return `value` if it can be an attempt's number, in case of a damaged file; else None."""
    return value if is_whole(value, 1, MAX_START) else None
