"""Load of the machine: the share of processor time that other programs used during a measurement.

    /proc/stat, /proc/<pid>/stat --read_usage, twice--> Usage, Usage --others_share--> 0 to 1

Runs in the parent; it only reads files of the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_IDLE = slice(3, 5)
"""idle and iowait among the times of a processor: proc_stat(5)."""
_STEAL_END = 8
"""End of the times that count: later fields are included in earlier ones."""
_PARENT, _TIMES = 1, slice(11, 15)
"""Fields after the name of a process: parent; own time and time of children it has waited for."""


class Usage(NamedTuple):
    """Processor time up to an instant, in clock ticks.

    Attributes:
        total: of the chosen processors, busy or idle.
        busy: of the chosen processors, used by any program or by the host of a virtual machine.
        own: of this process and all its descendants.
    """

    total: int
    busy: int
    own: int


def others_share(before: Usage | None, after: Usage | None) -> float:
    """Return the share of processor time that others used between two instants; 0 if unknown."""
    if before is None or after is None or after.total <= before.total:
        return 0.0
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / (after.total - before.total)))


def read_usage(
    cores: Iterable[int] | None = None, pid: int | None = None, proc: Path = PROC
) -> Usage | None:
    """Return the usage until now; None if the kernel does not report it.

    Args:
        cores: the chosen processors (default: those that this process may use).
        pid: process for `own`, with its descendants (default: this process).
        proc: mount point of procfs.
    """
    wanted = {f"cpu{core}" for core in (os.sched_getaffinity(0) if cores is None else cores)}
    total = busy = 0
    try:
        for line in (proc / "stat").read_text().splitlines():
            name, *times = line.split()
            if name in wanted:
                ticks = list(map(int, times[:_STEAL_END]))
                total += sum(ticks)
                busy += sum(ticks) - sum(ticks[_IDLE])
    except (OSError, ValueError):
        return None
    return Usage(total, busy, _own(os.getpid() if pid is None else pid, proc)) if total else None


def _own(pid: int, proc: Path) -> int:
    """Return the time of a process and its descendants, with ended ones that were reaped."""
    spent: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            fields = (proc / name / "stat").read_text(errors="replace").rpartition(")")[2].split()
            spent[int(name)] = sum(map(int, fields[_TIMES]))
            children.setdefault(int(fields[_PARENT]), []).append(int(name))
    queue, ticks = [pid], 0
    while queue:
        each = queue.pop()
        ticks += spent.get(each, 0)
        queue += children.get(each, [])
    return ticks
