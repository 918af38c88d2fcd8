"""Record of a run: what the files in its folder tell, while it runs and afterwards.

    RUN/lock, config.json, summary.json, last row of metrics.jsonl --read_record--> RunRecord

Used by commands beside training; nothing is written or locked. Files may be damaged, or written by
others: a value of another type than expected is treated as missing, and text is not yet clean.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from galamp.core.errors import UserError
from galamp.storage.locks import owner_in
from galamp.storage.run_folder import CONFIG, METRICS, SUMMARY, read_json
from galamp.storage.run_logs import RETURN, last_known_row
from galamp.storage.run_status import summary_of


class State(StrEnum):
    """State of a run: its last start runs, ended as its summary says, or ended without a word."""

    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    """Another machine runs it, or was running it when it was killed."""
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    DEAD = "dead"
    """Killed, or the machine went down."""


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        path: its folder.
        state: what it does, or how it ended.
        config: content of config.json; empty if that is damaged.
        summary: content of summary.json if it is of the last start; else empty.
        row: last row of metrics.jsonl; before the first one of a start, with the values of the last
            row that it goes on from.
        changed_s: time of the newest change to one of these files, in seconds of the wall clock.
    """

    path: Path
    state: State
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    changed_s: float = 0.0

    @property
    def env_id(self) -> str:
        """Environment."""
        found = self._setting("environment", "env_id")
        return found if isinstance(found, str) and found else "?"

    @property
    def learners(self) -> int | None:
        """Number of learners of the last start."""
        return whole_number(self._setting("resources", "learners"))

    @property
    def total_steps(self) -> int | None:
        """Agent steps after which it ends."""
        return whole_number(self.config.get("total_steps"))

    @property
    def agent_steps(self) -> int | None:
        """Agent steps so far."""
        found = whole_number(self.summary.get("agent_steps"))
        return whole_number(self.row.get("global_step")) if found is None else found

    @property
    def score(self) -> float | None:
        """Mean score of the last 100 training episodes; None before the first."""
        return self.number("mean_return_100", RETURN)

    def number(self, in_summary: str, in_row: str) -> float | None:
        """Return a number of the summary, or where there is none, of the last row."""
        found = amount(self.summary.get(in_summary))
        return amount(self.row.get(in_row)) if found is None else found

    def _setting(self, section: str, name: str) -> object:
        values = self.config.get(section)
        return values.get(name) if isinstance(values, dict) else None


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's: it has a config."""
    return os.path.isfile(folder / CONFIG)


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config.json of a run folder; empty if there is none, or it is damaged."""
    with contextlib.suppress(UserError):
        return read_json(folder / CONFIG)
    return {}


def read_record(folder: Path) -> RunRecord:
    """Return the record of the run in `folder`, which is one (`is_run`)."""
    config = config_of(folder)
    summary = summary_of(folder) or {}
    state = _state(folder, summary)
    if state in (State.RUNNING, State.ELSEWHERE):
        summary = {}  # of an earlier start, of which nothing is left in metrics.jsonl
    row = last_known_row(folder / METRICS)
    return RunRecord(folder, state, config, summary, row, _changed(folder))


def _state(folder: Path, summary: dict[str, Any]) -> State:
    owner = owner_in(folder)
    if owner is not None and owner.lives:
        return State.RUNNING
    if owner is not None and not owner.here:
        return State.ELSEWHERE
    with contextlib.suppress(ValueError):
        found = State(str(summary.get("status")))
        if found in (State.FINISHED, State.STOPPED, State.FAILED):
            return found
    return State.DEAD


def _changed(folder: Path) -> float:
    newest = 0.0
    for name in (CONFIG, METRICS, SUMMARY):
        with contextlib.suppress(OSError):
            newest = max(newest, os.stat(folder / name).st_mtime)
    return newest


def whole_number(value: object) -> int | None:
    """Return a count that a run can reach; None for any other value."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def amount(value: object) -> float | None:
    """Return a finite number; None for any other value."""
    if type(value) is int:
        return float(value) if abs(value) < 2**53 else None
    return value if isinstance(value, float) and math.isfinite(value) else None
