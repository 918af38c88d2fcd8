"""Use of the machine by some processes: busy time of each core, processor time and memory.

    /proc/stat --core_times--> {core: CoreTime}
    /proc/<pid>/stat, statm --process_use--> ProcessUse, None once it has ended

Cheap enough to be read every few seconds beside a run; `load.read_usage` looks at all processes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_IDLE = slice(3, 5)
"""idle and iowait among the times of a core: proc_stat(5)."""
_END = 8
"""End of the times that count: later fields are included in earlier ones."""
_OWN_TIMES = slice(11, 13)
"""utime and stime after the name of a process: proc_pid_stat(5)."""
_RESIDENT, _SHARED = 1, 2
"""Pages, among the fields of proc_pid_statm(5)."""


class CoreTime(NamedTuple):
    """Time of one core so far, in clock ticks."""

    total: int
    busy: int


class ProcessUse(NamedTuple):
    """Processor time of a process so far, in clock ticks, and its private memory."""

    ticks: int
    private_bytes: int


def core_times(cores: Iterable[int], proc: Path = PROC) -> dict[int, CoreTime]:
    """Return the time of each of the `cores` that the kernel reports."""
    wanted = {f"cpu{core}": core for core in cores}
    found = {}
    try:
        for line in (proc / "stat").read_text().splitlines():
            name, *times = line.split()
            if name in wanted:
                ticks = list(map(int, times[:_END]))
                found[wanted[name]] = CoreTime(sum(ticks), sum(ticks) - sum(ticks[_IDLE]))
    except (OSError, ValueError):
        return {}
    return found


def process_use(pid: int, proc: Path = PROC) -> ProcessUse | None:
    """Return the use of a process; None if it has ended, or cannot be read."""
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        pages = list(map(int, (folder / "statm").read_text().split()))
        private = max(0, pages[_RESIDENT] - pages[_SHARED])
        return ProcessUse(sum(map(int, fields[_OWN_TIMES])), private * mmap.PAGESIZE)
    except (OSError, ValueError, IndexError):
        return None
