"""How much of the processors others took while something was measured.

    /proc/stat, /proc/<pid>/stat --read_usage, twice--> Usage, Usage --others_share--> 0 to 1

Runs in the parent; it only reads what the kernel tells.
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
"""What follows is in the others already."""
_PARENT, _TIMES = 1, slice(11, 15)
"""After the name of a process: its parent; its own time and that of children it has waited for."""


class Usage(NamedTuple):
    """Processor time up to an instant, in clock ticks.

    Attributes:
        total: of the processors in question, busy or not.
        busy: the same, busy with whatever, or taken by the host of a virtual machine.
        own: of this process and all that descend from it.
    """

    total: int
    busy: int
    own: int


def others_share(before: Usage | None, after: Usage | None) -> float:
    """Return the share of the processors that others took between two instants; 0 if unknown."""
    if before is None or after is None or after.total <= before.total:
        return 0.0
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / (after.total - before.total)))


def read_usage(
    cores: Iterable[int] | None = None, pid: int | None = None, proc: Path = PROC
) -> Usage | None:
    """Return the usage until now; None where the kernel does not tell.

    Args:
        cores: the processors in question (default: those that this process may use).
        pid: whose time is `own`, with all descendants (default: this process).
        proc: where the kernel tells.
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
    """Return the time of a process and its descendants, those that were waited for included."""
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
