"""Process limits: how many more processes and threads control groups and `ulimit -u` allow.

    pids.max, pids.current of every control group --> least_room --> plan: refused in one line
    RLIMIT_NPROC, /proc/*/status -------------------^

Runs in the supervisor. Both limits count tasks, the kernel's word for threads: a process counts as
many as it has threads. Files that are unreadable or malformed are ignored, and never raise.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import NamedTuple

from galamp.core.machine.memory import PROC, ControlGroup, control_groups, number_in

EVERY_ID = 2**32 - 1
"""Number of possible user and group ids: all 32-bit numbers except the one that means none."""

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24
_STATUS = re.compile(r"^Uid:\s+(\d{1,10})\b.*^Threads:\s+(\d{1,9})$", re.MULTILINE | re.DOTALL)


class Room(NamedTuple):
    """Number of tasks that may still be started, and the limit that applies."""

    tasks: int
    limit: str


def least_room(proc: Path = PROC) -> Room | None:
    """Return the smallest room of all limits; None without a limit."""
    rooms = [room for chain in control_groups(proc, "pids") for room in map(_of_group, chain)]
    rooms.append(_of_user(proc))
    return min((room for room in rooms if room is not None), default=None)


def _of_group(group: ControlGroup) -> Room | None:
    most, now = number_in(group.folder / "pids.max"), number_in(group.folder / "pids.current")
    if most is None or now is None:
        return None
    return Room(max(0, most - now), f"{group.folder}/pids.max is {most}")


def _of_user(proc: Path) -> Room | None:
    """Return the room within the limit of this process's user; privileged users have no limit."""
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most == resource.RLIM_INFINITY or _is_privileged(proc):
        return None
    return Room(max(0, most - _count(proc, os.getuid())), f"ulimit -u is {most}")


def in_user_namespace(proc: Path = PROC) -> bool:
    """Whether this process is in a user namespace with other user ids, as in a rootless container.

    A namespace that maps all ids to themselves has no effect: see user_namespaces(7). A kernel
    without namespaces has no such file.
    """
    try:
        return (proc / "self" / "uid_map").read_text().split() != ["0", "0", str(EVERY_ID)]
    except OSError:
        return False


def _is_privileged(proc: Path) -> bool:
    """Whether the kernel exempts this process from the limit of its user (`copy_process`).

    It exempts root, and some capabilities, of the machine; those within a user namespace do not
    count.
    """
    if in_user_namespace(proc):
        return False
    found = re.search(
        r"^CapEff:\s+([0-9a-f]{1,16})$", _text(proc / "self" / "status"), re.MULTILINE
    )
    held = int(found[1], 16) if found else 0
    return os.getuid() == 0 or bool(held >> _CAP_SYS_ADMIN & 1 or held >> _CAP_SYS_RESOURCE & 1)


def _count(proc: Path, user: int) -> int:
    """Return the number of threads of all processes of a user."""
    count = 0
    for name in os.listdir(proc):
        found = _STATUS.search(_text(proc / name / "status")) if name.isdigit() else None
        if found is not None and int(found[1]) == user:
            count += int(found[2])
    return count


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
