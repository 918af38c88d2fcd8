"""The names `latest` and `best`: links, or where the disk has none, files that hold the same.

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

from galamp.core.disk import CANNOT, open_plain, sync_folder, temporary_name, write_new

LATEST: Final = "latest"
BEST: Final = "best"
NO_LINKS = CANNOT | {errno.EPERM, errno.EROFS, errno.EPROTO}
"""How symlink fails on file systems that have no symbolic links.

EROFS and EPROTO are some FUSE drivers' way to say so; where a disk means them, the file that is to
stand for the link cannot be written either.
"""
MAX_BYTES = 255
"""The longest name that a file may have."""


def replace_link(link: Path, target: str) -> None:
    """Let `link` lead to `target`, the name of what lies beside it, in one atomic step.

    Raises:
        OSError: the disk refuses; the link is as before.
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
    """Return `path` with every file in it that stands for a link replaced by what it names.

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
    """Return the path that a word on the command line means, once for all that is done with it.

    Links in it are followed now: another start may move `runs/latest` at any time. A path without
    any stays as it was typed.
    """
    path = follow(Path(text))
    try:
        real = os.path.realpath(path)
    except ValueError:  # a zero byte, which no file has in its name
        return path
    return path if real == os.path.abspath(path) else Path(real)


def _named(path: Path) -> str | None:
    """Return the name that a file holds in a link's place; None if it is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open_plain(path) as file:
            name = file.read(MAX_BYTES + 2).decode().removesuffix("\n")
    except (OSError, ValueError):
        return None
    sound = name.isprintable() and "/" not in name and name not in ("", ".", "..", path.name)
    return name if sound and len(name.encode()) <= MAX_BYTES else None
