"""The names `latest` and `best`: symbolic links, or files with the target's name on other disks.

    target --replace_link--> symbolic link, or a file with the target's name (exFAT, vfat, SMB)
    path as a user gives it --follow--> path without such files

Runs in every command that is given a run folder or a checkpoint, and in the supervisor.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from galamp.core.disk import UNSUPPORTED, open_plain, sync_folder, temporary_name, write_new

LATEST: Final = "latest"
BEST: Final = "best"
NO_LINKS = UNSUPPORTED | {errno.EPERM, errno.EROFS, errno.EPROTO}
"""Errors of symlink() on file systems without symbolic links.

Some FUSE drivers use EROFS and EPROTO for it; if the disk means them, the file in place of the link
cannot be written either.
"""
MAX_BYTES = 255
"""Longest name that a file may have."""


def replace_link(link: Path, target: str) -> None:
    """Point `link` to `target`, the name of a neighbour in its folder, in one atomic step.

    Raises:
        OSError: the disk refuses; the link is unchanged.
    """
    with temporary_name(link.parent) as temporary:
        try:
            temporary.symlink_to(target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            write_new(temporary, f"{target}\n".encode())
        temporary.replace(link)
    sync_folder(link.parent)


def follow(path: Path) -> Path:
    """Return `path` with every file that stands for a link replaced by its target.

    Symbolic links are left to the kernel.
    """
    if not {LATEST, BEST} & set(path.parts):
        return path
    found = Path()
    for part in path.parts:
        named = _named(found / part) if part in (LATEST, BEST) else None
        found /= part if named is None else named
    return found


def followed(text: str) -> Path:
    """Return the path of a command-line argument, resolved once for the whole command.

    Links in it are resolved now, since another start may move `runs/latest` at any time. A path
    without links stays as typed.
    """
    path = follow(Path(text))
    try:
        real = os.path.realpath(path)
    except ValueError:  # a zero byte, which no file name has
        return path
    return path if real == os.path.abspath(path) else Path(real)


def _named(path: Path) -> str | None:
    """Return the name in a file that stands for a link; None if it is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open_plain(path) as file:
            name = file.read(MAX_BYTES + 2).decode().removesuffix("\n")
    except (OSError, ValueError):
        return None
    sound = name.isprintable() and "/" not in name and name not in ("", ".", "..", path.name)
    return name if sound and len(name.encode()) <= MAX_BYTES else None
