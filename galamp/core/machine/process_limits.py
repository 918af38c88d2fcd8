"""How many more processes and threads may be started: control groups and `ulimit -u` limit them.

    pids.max, pids.current of every control group --> least_room --> plan: refused in one line
    RLIMIT_NPROC, /proc/*/status -------------------^

Runs in the supervisor. Both limits count tasks, which is what the kernel calls a thread: a process
is as many as it has threads. What is unreadable or odd says nothing and never raises.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import NamedTuple

from galamp.core.machine.memory import PROC, ControlGroup, control_groups, number_in

EVERY_ID = 2**32 - 1
"""So many users and groups there are: all numbers but the one that stands for none."""

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24
_STATUS = re.compile(r"^Uid:\s+(\d{1,10})\b.*^Threads:\s+(\d{1,9})$", re.MULTILINE | re.DOTALL)


class Room(NamedTuple):
    """So many more tasks may be started, and what limits them."""

    tasks: int
    limit: str


def least_room(proc: Path = PROC) -> Room | None:
    """Return where there is least room for more tasks; None where nothing limits them."""
    rooms = [room for chain in control_groups(proc, "pids") for room in map(_of_group, chain)]
    rooms.append(_of_user(proc))
    return min((room for room in rooms if room is not None), default=None)


def _of_group(group: ControlGroup) -> Room | None:
    most, now = number_in(group.folder / "pids.max"), number_in(group.folder / "pids.current")
    if most is None or now is None:
        return None
    return Room(max(0, most - now), f"{group.folder}/pids.max is {most}")


def _of_user(proc: Path) -> Room | None:
    """Return what the limit of this process's user leaves; it binds nobody with privileges."""
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if most == resource.RLIM_INFINITY or _is_privileged(proc):
        return None
    return Room(max(0, most - _count(proc, os.getuid())), f"ulimit -u is {most}")


def in_user_namespace(proc: Path = PROC) -> bool:
    """Whether this process's users are not those of the machine, as in a rootless container.

    Where all are mapped to themselves, it is as if there were no namespace: see
    user_namespaces(7). A kernel without namespaces has no such file.
    """
    try:
        return (proc / "self" / "uid_map").read_text().split() != ["0", "0", str(EVERY_ID)]
    except OSError:
        return False


def _is_privileged(proc: Path) -> bool:
    """Whether the kernel exempts this process from the limit of its user (`copy_process`).

    It looks for root, and for capabilities, of the machine: those within a user namespace, where
    anybody may be root, do not count.
    """
    if in_user_namespace(proc):
        return False
    found = re.search(
        r"^CapEff:\s+([0-9a-f]{1,16})$", _text(proc / "self" / "status"), re.MULTILINE
    )
    held = int(found[1], 16) if found else 0
    return os.getuid() == 0 or bool(held >> _CAP_SYS_ADMIN & 1 or held >> _CAP_SYS_RESOURCE & 1)


def _count(proc: Path, user: int) -> int:
    """Return how many threads of all processes are a user's."""
    count = 0
    for name in os.listdir(proc):
        told = _STATUS.search(_text(proc / name / "status")) if name.isdigit() else None
        if told is not None and int(told[1]) == user:
            count += int(told[2])
    return count


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
