"""Memory: available bytes, out-of-memory kills, and anonymous files.

    /proc/meminfo ---------------------------------------> available_bytes
    /proc/self/cgroup, mountinfo --> control groups ------^
                                     own control group --> out_of_memory_kills

Runs in the supervisor and in evaluation. A limit applies to a control group and all groups below
it, so the process's own group and all groups above it count, of cgroup version 1 and 2; on a hybrid
system each hierarchy is read. Files that are unreadable or malformed are ignored, and never raise.
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
"""Returned as the available memory if nothing is known."""

_MFD_NOEXEC_SEAL = 8  # Linux 6.3; Python has no constant for it yet
_MAX_DIGITS = 20
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Files(NamedTuple):
    """Names of the memory controller's files, for one version of control groups."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]
    """Lines of memory.stat; each is a sum over all groups below."""
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
"""Type of file system -> its files: version 2 and version 1."""


class ControlGroup(NamedTuple):
    """Control group: its folder, and the type of its file system."""

    folder: Path
    kind: str

    def free_bytes(self) -> int | None:
        """Return the free memory within this group's limits, in bytes; None without a limit.

        Above `memory.max` processes are killed; above `memory.high` they become very slow. Memory
        that the kernel can reclaim counts as free: the page cache of files, and the slab caches
        that version 2 reports. Shared memory (tmpfs, memfd) does not: it is counted as page cache
        (`file`, `cache`), but is on the lists of anonymous memory (Linux,
        admin-guide/cgroup-v2.rst on `inactive_file`), so it is in none of the numbers used here.
        """
        files = _FILES[self.kind]
        limits = (number_in(self.folder / name) for name in files.limits)
        limit = min((each for each in limits if each is not None), default=None)
        if limit is None:
            return None
        stat = _table(self.folder / "memory.stat")
        reclaimable = sum(stat.get(name, 0) for name in files.reclaimable)
        usage = number_in(self.folder / files.usage) or 0
        return max(0, limit - max(0, usage - reclaimable))

    def kills(self) -> int | None:
        """Return the number of out-of-memory kills in this group; None if not reported."""
        return _table(self.folder / _FILES[self.kind].events).get("oom_kill")


def available_bytes(proc: Path = PROC) -> int:
    """Return the available memory of the machine, within all limits of control groups, in bytes.

    Args:
        proc: mount point of procfs.
    """
    machine = re.search(r"^MemAvailable: *(\d{1,15}) kB$", _read(proc / "meminfo"), re.MULTILINE)
    free = [int(machine[1]) * 1024] if machine else []
    for chain in control_groups(proc):
        free += [left for group in chain if (left := group.free_bytes()) is not None]
    return min(free, default=UNLIMITED_BYTES)


def out_of_memory_kills(proc: Path = PROC) -> int:
    """Return the number of out-of-memory kills in this process's control group."""
    found = (chain[0].kills() for chain in control_groups(proc))
    return next((kills for kills in found if kills is not None), 0)


def control_groups(proc: Path = PROC, controller: str = "memory") -> list[list[ControlGroup]]:
    """Return this process's control group and all groups above it, for each mounted hierarchy.

    Of version 1, the hierarchy of `controller` is used.

    Within a control group namespace, groups above its root have no names: of these only the one
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
    """Return the paths of this process's groups of a controller: type of file system -> path."""
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
    """Return the path from a mount's root to a group, as names; None if it is not below the root.

    Above the root of a control group namespace each name is `..`. If the mount's root is further up
    than the group, the names between them are unknown, and the root is used.
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
    """Return the number in a kernel file; None if it holds none."""
    return _number(_read(path))


def numbers_in(path: Path) -> list[int | None]:
    """Return the words in a kernel file as numbers; None for a word that is no number."""
    return list(map(_number, _read(path).split()))


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _table(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    numbers = {pair[0]: _number(pair[1]) for pair in pairs if len(pair) == 2}
    return {name: number for name, number in numbers.items() if number is not None}


def anonymous_files(*names: str) -> list[int]:
    """Return the descriptors of several `anonymous_file`s: of all, or of none.

    Raises:
        UserError: the system refuses one.
    """
    files: list[int] = []
    try:
        for name in names:
            files.append(anonymous_file(name))
    except UserError:
        for file in files:
            os.close(file)
        raise
    return files


def anonymous_file(name: str) -> int:
    """Return the descriptor of a new file in memory, without a path (a memfd); it can be sealed.

    It is never executable, as some systems require (sysctl vm.memfd_noexec 2).

    Args:
        name: name for display in /proc.

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
            f"shared memory cannot be created (memfd_create: {error.strerror}): allow it, by the "
            "sysctl vm.memfd_noexec, a container's seccomp profile, or ulimit -n"
        ) from None
