"""Report of a profile: where the time of each process went, beside the dashboard's own shares.

    Recording, Snapshot --lines--> text of at most 100 columns
                        --as_json--> report.json

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from galamp.core.sanitize import clean
from galamp.telemetry.display.console import plain_table, text_lines
from galamp.telemetry.display.text import UNKNOWN
from galamp.telemetry.snapshot import Snapshot
from galamp.tools.profile.recording import Recording
from galamp.tools.profile.stacks import (
    ROLES,
    Samples,
    busiest,
    idle_share,
    phases_of,
    shares,
)

WIDTH = 100
MAX_PROCESSES = 4
"""Processes of a role with a column of their own; of more, all have one together."""
BUSIEST = 5
DASHBOARD = "dashboard"


def lines(
    run: str, seconds: float, recording: Recording, snapshot: Snapshot | None
) -> Iterator[str]:
    """Yield the report; `snapshot` is the run's own measurement of the same time."""
    count, rate = len(recording.samples), recording.rate
    yield f"profile of {clean(run)}: {seconds:.0f} s, {count} processes, {rate} samples/s of each"
    for role in ROLES:
        of_role = [each for each in recording.samples if each.role == role and each.total]
        if of_role:
            yield ""
            yield from _role(role, of_role, dashboard_shares(snapshot) if role == ROLES[0] else {})
    for title, why in recording.failures.items():
        yield f"{title}: not recorded: {why}"


def dashboard_shares(snapshot: Snapshot | None) -> dict[str, float]:
    """Return phase -> share of the learners' time, as the run has measured it; {} if unknown."""
    learners = [each.phase_shares for each in snapshot.learners] if snapshot else []
    known = [each for each in learners if each]
    names = dict.fromkeys(name for each in known for name in each)
    return {name: sum(each.get(name, 0.0) for each in known) / len(known) for name in names}


def as_json(seconds: float, recording: Recording, snapshot: Snapshot | None) -> dict[str, Any]:
    """Return the report as plain values."""
    return {
        "seconds": seconds,
        "rate": recording.rate,
        "dashboard": dashboard_shares(snapshot),
        "processes": [
            {
                "pid": each.pid, "title": each.title, "samples": each.total,
                "idle": round(idle_share(each), 4),
                "phases": {name: round(share, 4) for name, share in shares(each).items()},
            }
            for each in recording.samples
        ],
        "failures": recording.failures,
    }  # fmt: skip


def _role(role: str, of_role: Sequence[Samples], own: dict[str, float]) -> Iterator[str]:
    """Yield the table of one role, and its busiest functions."""
    columns = columns_of(role, of_role)
    table = plain_table([role, *columns, *([DASHBOARD] if own else [])])
    for phase in phases_of(role):
        cells = [_percent(each.get(phase, 0.0)) for each, _ in columns.values()]
        table.add_row(phase, *cells, *([_percent(own.get(phase))] if own else []))
    idle = [_percent(idle) for _, idle in columns.values()]
    table.add_row("of it waiting", *idle, *([UNKNOWN] if own else []))
    yield from text_lines(table, WIDTH)
    for frame, share in busiest(of_role, BUSIEST):
        yield f"  {_percent(share):>5}  {clean(frame)[: WIDTH - 10]}"


def columns_of(role: str, of_role: Sequence[Samples]) -> dict[str, tuple[dict[str, float], float]]:
    """Return heading -> shares by phase, and idle share, of each process or of all together."""
    if len(of_role) <= MAX_PROCESSES:
        return {
            each.title.removeprefix(f"{role} "): (shares(each), idle_share(each))
            for each in of_role
        }
    found, number = [shares(each) for each in of_role], len(of_role)
    mean = {name: sum(each[name] for each in found) / number for name in phases_of(role)}
    return {f"mean of {number}": (mean, sum(map(idle_share, of_role)) / number)}


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"
