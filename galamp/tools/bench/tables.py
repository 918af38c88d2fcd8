"""Output of the bench: one table at the end, and a JSON row per measurement.

Runs in the bench. The table is made from the measurements alone; below it stand the commit, the
machine, and the command that reproduces it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any, TextIO

from rich.table import Table

from galamp.core.machine.machine import processor_name
from galamp.telemetry.display.console import plain_table, table_console
from galamp.telemetry.display.text import UNKNOWN
from galamp.tools.bench.nvml import GpuUse
from galamp.tools.bench.runs import ROOT, Measurement, cores

BUSY_SHARE = 0.05
"""Share of the cores used by other programs above which a measurement is marked as doubtful."""

GIT_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Origin:
    """Origin of measurements: enough to repeat them."""

    commit: str
    machine: dict[str, Any]
    command: str

    @classmethod
    def here(cls, command: str) -> Origin:
        """Describe this checkout on this machine."""
        machine = {
            "cpu": processor_name(),
            "cores": cores(),
            "python": platform.python_version(),
            "torch": version("torch"),
        }
        return cls(_commit(), machine, command)

    @property
    def machine_line(self) -> str:
        """The machine in one line."""
        known = self.machine
        return (
            f"{known['cpu']}, {known['cores']} cores, "
            f"Python {known['python']}, torch {known['torch']}"
        )

    @property
    def lines(self) -> list[str]:
        """All of it, as text."""
        return [
            f"commit   {self.commit}",
            f"machine  {self.machine_line}",
            f"command  {self.command}",
        ]


def _commit() -> str:
    """Return the checkout's commit, marked where files differ from it, or `unknown`."""
    # Without the optional locks git leaves the checkout exactly as it is.
    describe = ("git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--dirty")
    try:
        done = subprocess.run(
            [*describe, "--exclude=*", "--abbrev=10"],
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE_S,
            check=True,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def json_row(measurement: Measurement, origin: Origin, what: str) -> dict[str, Any]:
    """Return a measurement and its origin as JSON values."""
    return origin_row(origin, what) | dataclasses.asdict(measurement)


def origin_row(origin: Origin, what: str) -> dict[str, Any]:
    """Return the JSON values with which every row of the bench begins."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": origin.commit,
        "machine": origin.machine,
        "command": origin.command,
        "what": what,
    }


def show(
    measurements: Sequence[Measurement], subject: str, what: str, origin: Origin, file: TextIO
) -> None:
    """Write the table of all measurements, with the facts needed to repeat them below."""
    show_table(table(measurements, subject), what, _remarks(measurements, subject, origin), file)


def show_table(found: Table, what: str, remarks: Iterable[str], file: TextIO) -> None:
    """Write the title, the table, and the remarks below."""
    out = table_console(file)
    out.print(what)
    out.print(found)
    for line in remarks:
        out.print(line, soft_wrap=True)


def table(measurements: Sequence[Measurement], subject: str) -> Table:
    """Return one line per system, in the order in which they were first measured."""
    systems = list(dict.fromkeys(m.system for m in measurements))
    compared = len(systems) > 1
    ratio = [f"{subject} / system"] if compared else []
    on_gpu = ("GPU", "watts", "frames/J") if any(m.gpu for m in measurements) else ()
    speed = ("system", "agent steps/s", "min - max", *ratio)
    result = plain_table((*speed, "memory MB", "CPU", *on_gpu))
    for system in systems:
        own = [m for m in measurements if m.system == system]
        speeds = [m.agent_steps_per_s for m in own]
        cells = [system, f"{median(speeds):,.0f}", f"{min(speeds):,.0f} - {max(speeds):,.0f}"]
        if compared:
            cells.append(_spread(ratios(measurements, subject, system)))
        cells.append(f"{median(m.pss_mb for m in own):,.0f}")
        cells.append(f"{100 * median(m.cpu_share for m in own):.0f} %")
        if on_gpu:
            cells += _gpu_cells([m.gpu for m in own if m.gpu is not None])
        result.add_row(*cells)
    return result


def _gpu_cells(used: Sequence[GpuUse]) -> list[str]:
    shares = [gpu.utilisation for gpu in used]
    return [
        _median([None if share is None else 100 * share for share in shares], ".0f", " %"),
        _median([gpu.watts for gpu in used], ".0f"),
        _median([gpu.frames_per_joule for gpu in used], ",.1f"),
    ]


def _median(values: Sequence[float | None], form: str, unit: str = "") -> str:
    """Return the median as text, or that it is unknown if one value is."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return UNKNOWN
    return f"{median(known):{form}}{unit}"


def gpu_remarks(measurements: Sequence[Measurement]) -> list[str]:
    """Return a line on the source of the table's watts, if it has any."""
    used = [m.gpu for m in measurements if m.gpu is not None]
    sources = sorted({gpu.watts_from for gpu in used if gpu.watts_from})
    if not used:
        return []
    if not sources:
        return [f"Watts: {UNKNOWN}, for neither energy nor power of these GPUs can be read."]
    return [f"Watts: of the GPUs of the run alone, by {' and '.join(sources)}."]


def ratios(measurements: Sequence[Measurement], subject: str, system: str) -> list[float]:
    """Return the subject's speed relative to `system`, in each round that has both."""
    if system == subject:
        return []
    speed = {(m.system, m.round): m.agent_steps_per_s for m in measurements}
    rounds = sorted({m.round for m in measurements})
    return [
        speed[subject, number] / speed[system, number]
        for number in rounds
        if (subject, number) in speed and (system, number) in speed
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    return f"{median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def _remarks(measurements: Sequence[Measurement], subject: str, origin: Origin) -> list[str]:
    lines = list(origin.lines)
    if any(m.system != subject for m in measurements):
        lines.append("Ratios: the median of the rounds' ratios, and the least and the greatest.")
    lines.append("Memory: all processes, shared pages counted once. CPU: share of all cores.")
    lines += gpu_remarks(measurements)
    return lines + quiet_remarks(max(m.other_cpu_share for m in measurements))


def quiet_remarks(busiest: float) -> list[str]:
    """Return a line if the greatest share of the cores that others used spoils measured times."""
    if busiest <= BUSY_SHARE:
        return []
    return [
        f"NOT QUIET: something else used up to {100 * busiest:.0f} % of the cores meanwhile; "
        "measure again on an idle machine."
    ]
