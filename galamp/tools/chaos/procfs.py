"""Process information of the kernel: parents, children, open files and memory.

Runs in the supervisor; it only reads /proc. A process that has ended meanwhile has nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from galamp.core.processes.reaper import children_of_each

NAMED = "/dev/shm/"
_PROC = Path("/proc")


class Process(NamedTuple):
    """One process: its parent, and whether it is a zombie."""

    pid: int
    name: str
    parent: int
    zombie: bool


def process(pid: int) -> Process | None:
    """Return a process's information; None if it does not exist."""
    with contextlib.suppress(OSError):
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        head, _, rest = text.rpartition(")")
        state, parent = rest.split()[:2]
        return Process(pid, head.partition("(")[2], int(parent), state in "ZX")
    return None


def server_of(pid: int) -> int | None:
    """Return a child's fork server: its parent, if that is a child of this process."""
    child = process(pid)
    parent = process(child.parent) if child is not None else None
    return parent.pid if parent is not None and parent.parent == os.getpid() else None


def children(parents: set[int]) -> list[Process]:
    """Return the children of these processes."""
    pids = set[int]().union(*children_of_each(*parents).values())
    return [each for each in map(process, pids) if each is not None and each.parent in parents]


def descriptors(pid: int | None = None) -> int:
    """Return how many files a process, or this one, holds open; 0 if it has ended.

    Without the one used for counting.
    """
    if pid is None:
        return len(os.listdir(_PROC / "self" / "fd")) - 1
    with contextlib.suppress(OSError):
        return len(os.listdir(_PROC / str(pid) / "fd"))
    return 0


def own_bytes(pid: int | None = None) -> int:
    """Return the private memory of a process, or this one; shared memory does not count."""
    return _kilobytes(f"{pid or 'self'}/status", "RssAnon:") * 1024


def pss_bytes(pid: int) -> int:
    """Return a process's proportional set size: shared memory counts in part."""
    return _kilobytes(f"{pid}/smaps_rollup", "Pss:") * 1024


def named_memory(pid: int) -> set[str]:
    """Return the names of shared memory that a process has mapped or holds open."""
    names: set[str] = set()
    with contextlib.suppress(OSError):
        lines = (_PROC / str(pid) / "maps").read_text(errors="replace").splitlines()
        names |= {NAMED + line.partition(NAMED)[2] for line in lines if NAMED in line}
    with contextlib.suppress(OSError):
        for file in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(os.readlink(file))
    return {name for name in names if name.startswith(NAMED)}


def _kilobytes(file: str, field: str) -> int:
    with contextlib.suppress(OSError):
        for line in (_PROC / file).read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    return 0
