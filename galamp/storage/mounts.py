"""File system of a folder, as /proc/self/mountinfo describes it.

    folder --mount_of--> type, options --local_locks--> why other machines do not see a lock here
                                       `-keeps_modes--> whether chmod changes anything here

Runs in the parent. Without information, a disk is taken for an ordinary one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
LOCAL_OPTIONS = frozenset({"nolock", "localflock", "local_lock=flock", "local_lock=all", "nobrl"})
LOCAL_TYPES = frozenset({"beegfs", "fuse"})
"""Shared mounts on which only the owner's machine sees a lock."""
SHARED_FUSE = frozenset({"fuse.glusterfs", "fuse.ceph-fuse", "fuse.juicefs"})
"""FUSE drivers that share locks; others (fuse.sshfs, fuse.rclone, ...) do not."""
WITHOUT_MODES = frozenset(
    {"9p", "drvfs", "vfat", "msdos", "exfat", "ntfs", "fuseblk", "cifs", "smb3"}
)
"""Owner and mode are the mount's there, the same for all files (9p: Windows disks under WSL)."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
"""The kernel's escape of a space in a path."""


class Mount(NamedTuple):
    """A mount's file system type, and its options."""

    kind: str
    options: tuple[str, ...]


def mount_of(folder: Path, mounts: Path | None = None) -> Mount:
    """Return the mount that `folder` is on; one without a type where the kernel does not say."""
    place, point_of, found = os.path.realpath(folder), "", Mount("", ())
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, details = before.split(), after.split()
        if len(fields) < 6 or len(details) < 3:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if os.path.commonpath([point, place]) == point and len(point) >= len(point_of):
            options = (*fields[5].split(","), *details[2].split(","))
            point_of, found = point, Mount(details[0], options)
    return found


def local_locks(folder: Path, mounts: Path | None = None) -> str:
    """Return why a lock in `folder` is seen on this machine only, though the disk may be shared.

    Returns:
        The mount's type or option; "" where other machines see locks, as far as the kernel says.
    """
    kind, options = mount_of(folder, mounts)
    if kind in LOCAL_TYPES or (kind.startswith("fuse.") and kind not in SHARED_FUSE):
        return kind
    return next((f"{kind}, {option}" for option in options if option in LOCAL_OPTIONS), "")


def keeps_modes(folder: Path, mounts: Path | None = None) -> bool:
    """Return whether files in `folder` have their own owner and mode, which chmod changes."""
    kind, options = mount_of(folder, mounts)
    return kind not in WITHOUT_MODES or "metadata" in " ".join(options)
