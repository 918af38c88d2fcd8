"""Why a run does not answer, from the files in its folder: how it ended, or where it may still run.

Used by commands that cannot reach a run. Nothing here changes the run; its lock is read, not taken.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galamp.core.decode import Limits, decode
from galamp.core.errors import UserError
from galamp.core.json_values import DecodeError
from galamp.core.sanitize import clean
from galamp.storage.attempts import last_attempt
from galamp.storage.locks import owner_in
from galamp.storage.own_code import own_code_flags
from galamp.storage.run_folder import CONFIG, SUMMARY, read_json

UNKNOWN = "it ended without a word: killed, or the machine went down"


LIMITS = Limits(more_fields=True)


@dataclass(frozen=True)
class _Ending:
    """What a summary must have to tell how a run has ended."""

    agent_steps: int
    status: str


class NotRunningError(UserError):
    """The run is not running, as far as this machine can tell."""


def not_running(run: Path) -> UserError:
    """Return the error for a command that cannot reach the run.

    A socket belongs to one machine, while others may see its name; some disks have no sockets.
    """
    if not (run / CONFIG).is_file():
        return UserError(f"{run}: not a run folder (it has no {CONFIG})")
    owner = owner_in(run)
    if owner is not None and not owner.here:
        return NotRunningError(
            f"{run}: runs, or was killed, as {clean(owner.words)}: use galamp attach or scale on "
            "that machine"
        )
    if owner is not None and owner.lives:
        return NotRunningError(
            f"{run}: runs as {clean(owner.words)}, but has no socket there to be reached by: this "
            "disk can have none, or the run has just begun, or is about to end"
        )
    return NotRunningError(f"{run}: not running, {how_it_ended(run)}; {_next(run)}")


def _next(run: Path) -> str:
    """Return what can be done with a run that has ended, as a command that can be pasted."""
    name, summary = shlex.quote(str(run)), summary_of(run)
    if summary is not None and summary["status"] == "finished":  # it goes on with other settings
        return f"what is next: galamp show {name}"
    config: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        config = read_json(run / CONFIG)
    _, flags = own_code_flags(config)
    return f"go on: galamp run --resume {name}{flags}"


def how_it_ended(run: Path) -> str:
    """Return as text how the run ended, and after how many agent steps."""
    summary = summary_of(run)
    if summary is None:
        return UNKNOWN
    failure = summary.get("failure")
    why = f" ({clean(str(failure))})" if failure else ""
    return f"it {clean(str(summary['status']))}{why} after {summary['agent_steps']:,} agent steps"


def summary_of(run: Path) -> dict[str, Any] | None:
    """Return the summary of the run's last attempt; None if there is none."""
    with contextlib.suppress(UserError, DecodeError):
        summary = read_json(run / SUMMARY)
        decode(_Ending, summary, LIMITS)
        if summary.get("start") == last_attempt(run):
            return summary
    return None
