"""Cache of measured rates on this machine: agent steps/s by number of learners, per workload.

    ~/.cache/galamp/learners.json: {key: {"measured": day, "rates": {learners: agent steps/s}}}
    ~/.cache/galamp/learners.lock, measuring-<machine>.lock: one writes, one measures at a time

Runs in the parent. A missing or damaged cache, or one of another form, is taken as empty. The
user's processes share the folder, on every machine that shares the home.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from galamp.core.decode import Limits, decode
from galamp.core.disk import read_limited, remove_stale, replace_json
from galamp.core.json_values import DecodeError, json_object
from galamp.storage.locks import wait_for_lock

MAX_BYTES = 1_000_000
LIMITS = Limits(more_fields=True)
MAX_ENTRIES = 200
"""The oldest are removed first."""
WRITE_TIMEOUT_S = 5.0
"""Longest wait for another writer; one that takes longer has been stopped."""


class Rates(NamedTuple):
    """Agent steps/s by number of learners, and the day of the measurement."""

    by_learners: dict[int, float]
    measured: str


class RateCache:
    """The file, and what is in it."""

    def __init__(self, path: Path | None = None) -> None:
        """Use `path` (default: `galamp/learners.json` in the user's cache folder)."""
        self.path = path or cache_folder() / "learners.json"

    def find(self, key: Mapping[str, Any]) -> Rates | None:
        """Return the rates for `key`, machine and workload as plain values; None if unknown."""
        return _rates(self._read().get(_digest(key)))

    def save(self, key: Mapping[str, Any], by_learners: Mapping[int, float]) -> None:
        """Store a measurement; entries that other processes have stored meanwhile are kept.

        Raises:
            OSError: the disk refuses.
        """
        entry = {
            "key": dict(key),
            "measured": f"{date.today():%Y-%m-%d}",
            "rates": {str(count): rate for count, rate in by_learners.items()},
        }
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(self.path.with_suffix(".lock"), WRITE_TIMEOUT_S):
            entries = self._read()
            entries.pop(_digest(key), None)
            entries[_digest(key)] = entry
            replace_json(self.path, dict(list(entries.items())[-MAX_ENTRIES:]))
            remove_stale(folder)

    @contextlib.contextmanager
    def measuring(
        self, machine: Sequence[Any], limit_s: float, waits: Callable[[], object]
    ) -> Iterator[None]:
        """Hold this user's measuring lock of a `machine`; waits at most `limit_s`.

        `machine` is the machine part of the rates' key. `waits` is called once if another process
        measures. After the timeout, or without locks, the block is entered all the same.
        """
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        name = f"measuring-{_digest({'machine': machine})}.lock"
        with wait_for_lock(self.path.with_name(name), limit_s, waits):
            yield

    def _read(self) -> dict[str, Any]:
        try:
            return json_object(read_limited(self.path, MAX_BYTES))
        except (OSError, DecodeError):
            return {}


def cache_folder() -> Path:
    """Return galamp's cache folder: all in it can be measured again."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")  # unchanged where it is unknown
    usual = Path(home if os.path.isabs(home) else os.sep, ".cache")
    return (Path(given) if os.path.isabs(given) else usual) / "galamp"


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Entry:
    """What is read of an entry."""

    measured: str
    rates: dict[str, float]


def _rates(entry: object) -> Rates | None:
    """Return the rates of an entry; None if it is invalid."""
    try:
        found = decode(_Entry, entry, LIMITS)
        by_learners = {int(count): rate for count, rate in found.rates.items()}
        day = date.fromisoformat(found.measured)
    except (DecodeError, ValueError):
        return None
    sound = all(count > 0 and rate > 0 for count, rate in by_learners.items())
    return Rates(by_learners, str(day)) if by_learners and sound else None
