"""Memory: how much can still be taken, who was ended for want of it, and memory without a name.

    /proc/meminfo ---------------------------------------> available_bytes
    /proc/self/cgroup, mountinfo --> control groups ------^
                                     own control group --> out_of_memory_kills

Runs in the supervisor and in evaluation. A limit holds for a control group and all below it, so the
process's own group and every one above it count, of version 1 and of version 2; on a hybrid system
each hierarchy is looked at. What is unreadable or odd says nothing and never raises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

from galamp.core.errors import UserError

PROC = Path("/proc")
UNLIMITED_BYTES = 2**63 - 1
"""Said to be free where nothing can be found out."""

_MFD_NOEXEC_SEAL = 8  # Linux 6.3; Python has no name for it yet
_MAX_DIGITS = 20
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Files(NamedTuple):
    """Where the memory controller of one version says what."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]
    """Lines of memory.stat, sums over the groups below."""
    events: str


_FILES = {
    "cgroup2": _Files(
        ("memory.max", "memory.high"),
        "memory.current",
        ("inactive_file", "active_file", "slab_reclaimable"),
        "memory.events",
    ),
    "cgroup": _Files(
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
        "memory.oom_control",
    ),
}
"""By type of file system: version 2 and version 1."""


class ControlGroup(NamedTuple):
    """A control group: its folder, and the type of file system that it is in."""

    folder: Path
    kind: str

    def free_bytes(self) -> int | None:
        """Return what can still be taken within this group's limits; None where it has none.

        Above `memory.max` processes are ended; above `memory.high` they are slowed to a crawl.
        What the kernel can take back counts as free: the page cache of files, and the slab caches
        that version 2 tells of. Shared memory (tmpfs, memfd) does not: it is counted as page cache
        (`file`, `cache`), but is kept on the lists of anonymous memory (Linux,
        admin-guide/cgroup-v2.rst on `inactive_file`), so it is in none of the numbers taken here.
        """
        files = _FILES[self.kind]
        told = (number_in(self.folder / name) for name in files.limits)
        limit = min((each for each in told if each is not None), default=None)
        if limit is None:
            return None
        stat = _table(self.folder / "memory.stat")
        reclaimable = sum(stat.get(name, 0) for name in files.reclaimable)
        usage = number_in(self.folder / files.usage) or 0
        return max(0, limit - max(0, usage - reclaimable))

    def kills(self) -> int | None:
        """Return how many of its processes the kernel has ended for want of memory, if it tells."""
        return _table(self.folder / _FILES[self.kind].events).get("oom_kill")


def available_bytes(proc: Path = PROC) -> int:
    """Return the memory that can still be taken: of the machine, within all limits that hold here.

    Args:
        proc: where the kernel tells of processes.
    """
    machine = re.search(r"^MemAvailable: *(\d{1,15}) kB$", _read(proc / "meminfo"), re.MULTILINE)
    free = [int(machine[1]) * 1024] if machine else []
    for chain in control_groups(proc):
        free += [left for group in chain if (left := group.free_bytes()) is not None]
    return min(free, default=UNLIMITED_BYTES)


def out_of_memory_kills(proc: Path = PROC) -> int:
    """Return how many processes of this control group the kernel has ended for want of memory."""
    told = (chain[0].kills() for chain in control_groups(proc))
    return next((kills for kills in told if kills is not None), 0)


def control_groups(proc: Path = PROC, controller: str = "memory") -> list[list[ControlGroup]]:
    """Return this process's control group and those above it, for each place where they are seen.

    Of version 1 those of `controller`, which has a hierarchy of its own there.

    Within a control group namespace the groups above its root have no names: of those only the one
    that is mounted can be found.
    """
    own = _own_paths(proc, controller)
    chains = []
    for kind, root, place in _mounts(proc, controller):
        names = _names_between(root, own[kind]) if kind in own else None
        if names is not None:
            depths = range(len(names), -1, -1)
            chains.append([ControlGroup(place.joinpath(*names[:n]), kind) for n in depths])
    return chains


def _own_paths(proc: Path, controller: str) -> dict[str, str]:
    """Return the paths of this process's groups of a controller, by type of file system."""
    found = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and (not controllers or controller in controllers.split(",")):
            found["cgroup" if controllers else "cgroup2"] = path
    return found


def _mounts(proc: Path, controller: str) -> list[tuple[str, str, Path]]:
    """Return (type, root, place) of every mounted hierarchy of a controller."""
    found = []
    for line in _read(proc / "self" / "mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields, (kind, *more) = mount.split(" "), system.split(" ")
        if kind not in _FILES or len(fields) < 5:
            continue
        if kind == "cgroup2" or controller in more[-1].split(","):
            root, place = (_ESCAPE.sub(_unescaped, field) for field in fields[3:5])
            found.append((kind, root, Path(place)))
    return found


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _names_between(root: str, path: str) -> list[str] | None:
    """Return the names that lead from a mount's root to a group; None if it is not below there.

    Above the root of a control group namespace each step is `..`. Where the mount's root is further
    up than the group, the names between are unknown, and the root stands for all.
    """
    above, own = ([name for name in text.split("/") if name] for text in (root, path))
    if own[: len(above)] == above:
        names = own[len(above) :]
        return None if ".." in names else names
    return [] if set(above) == {".."} and own.count("..") < len(above) else None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file can have this name
        return path.read_text(errors="replace")
    return ""


def number_in(path: Path) -> int | None:
    """Return the number that a file of the kernel's holds; None where it holds none."""
    return _number(_read(path))


def numbers_in(path: Path) -> list[int | None]:
    """Return the words in a file of the kernel's as numbers; None for one that is no number."""
    return list(map(_number, _read(path).split()))


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _table(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    numbers = {pair[0]: _number(pair[1]) for pair in pairs if len(pair) == 2}
    return {name: number for name, number in numbers.items() if number is not None}


def anonymous_file(name: str) -> int:
    """Return the descriptor of new memory without a name in any folder; it may be sealed.

    It can never be executed, which some systems demand (sysctl vm.memfd_noexec 2).

    Args:
        name: shown in /proc, and nowhere looked up.

    Raises:
        UserError: the system refuses.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.memfd_create(name, flags)  # a kernel that does not know the flag
    except OSError as error:
        raise UserError(
            f"shared memory cannot be made (memfd_create: {error.strerror}): allow it, by the "
            "sysctl vm.memfd_noexec, a container's seccomp profile, or ulimit -n"
        ) from None
