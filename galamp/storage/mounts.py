"""What kind of disk a folder is on, as the kernel tells: /proc/self/mountinfo.

    folder --mount_of--> type, options --local_locks--> why other machines do not see a lock here
                                       `-keeps_modes--> whether chmod changes anything here

Runs in the parent. Where nothing is told, a disk is taken to be an ordinary one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
LOCAL_OPTIONS = frozenset({"nolock", "localflock", "local_lock=flock", "local_lock=all", "nobrl"})
LOCAL_TYPES = frozenset({"beegfs", "fuse"})
"""Mounts that machines share, and on which a lock is seen by the one that has it only."""
SHARED_FUSE = frozenset({"fuse.glusterfs", "fuse.ceph-fuse", "fuse.juicefs"})
"""The other drivers outside the kernel (fuse.sshfs, fuse.rclone, ...) hand no flock on."""
WITHOUT_MODES = frozenset(
    {"9p", "drvfs", "vfat", "msdos", "exfat", "ntfs", "fuseblk", "cifs", "smb3"}
)
"""Owner and mode are the mount's there, the same for all files (9p: Windows' disks under WSL)."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
"""How the kernel writes a space in a path."""


class Mount(NamedTuple):
    """A mount's file system type, and its options."""

    kind: str
    options: tuple[str, ...]


def mount_of(folder: Path, mounts: Path | None = None) -> Mount:
    """Return the mount that `folder` is on; one of no type where the kernel does not tell."""
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
    """Say why a lock in `folder` is seen on this machine only, though others may share the disk.

    Returns:
        The mount's type or option; "" where locks reach everyone, as far as the kernel tells.
    """
    kind, options = mount_of(folder, mounts)
    if kind in LOCAL_TYPES or (kind.startswith("fuse.") and kind not in SHARED_FUSE):
        return kind
    return next((f"{kind}, {option}" for option in options if option in LOCAL_OPTIONS), "")


def keeps_modes(folder: Path, mounts: Path | None = None) -> bool:
    """Whether files in `folder` have an owner and a mode of their own, which chmod changes."""
    kind, options = mount_of(folder, mounts)
    return kind not in WITHOUT_MODES or "metadata" in " ".join(options)
