"""What is looked at before anything is written into a folder that others may have filled.

    RUN --refuse_links--> nothing, or one line: a link, or a file with other names elsewhere
    RUN --shared_with--> who else may write there, for a warning

Runs in the parent. Run folders come from elsewhere, in archives and by git, which carry links:
what is added to one of its files, cut off or removed would be somebody else's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from galamp.errors import UserError

FOLDERS: Final = ("checkpoints", "logs", "monitor")
"""Folders of a run."""
ADDED_TO: Final = ("lock", "metrics.jsonl", "events.jsonl", "gossip.jsonl")
"""Files of a run that are written in place; the others are made anew and renamed."""
ENDINGS: Final = (".log", ".csv")
"""The same in its folders."""


def refuse_links(run: Path) -> None:
    """See that what is written in a run folder stays in it.

    Raises:
        UserError: a folder or file of the run is a link, or has a second name; or they cannot be
            looked at.
    """
    try:
        for path in _written(run):
            with contextlib.suppress(FileNotFoundError):
                _refuse(path, os.lstat(path), run)
    except OSError as error:
        raise UserError(f"{error.filename or run}: {error.strerror}") from None


def _refuse(path: Path, found: os.stat_result, run: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UserError(
            f"{path}: is a link to {os.readlink(path)}, and nothing is written through links: "
            "put the thing itself in its place; to keep a run on another disk, move the whole "
            "run folder there, a link to that is followed"
        )
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and _is_added_to(path):
        raise UserError(
            f"{path}: the file has {found.st_nlink} names (hard links), and what is added to "
            f"it would appear under all of them: copy the folder (cp -r {run} NEW), and use "
            "the copy"
        )


def shared_with(run: Path) -> str | None:
    """Say in one line who else may write into a run folder; None if it is the user's alone.

    None of that is refused. Owners are no proof: disks without any (exFAT, SMB), containers and
    networks that map root to nobody show another one for what is the user's own. A folder that
    the user's own group may write to, as with umask 002, is nobody else's on most systems; one of
    another group is shared on purpose.
    """
    found = os.stat(run)
    if found.st_uid != os.geteuid():
        return (
            f"{run}: belongs to user {_user(found.st_uid)}, who can change and remove what is "
            "written there"
        )
    others = found.st_mode & stat.S_IWOTH
    if others or (found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid()):
        who = "everyone" if others else "the members of its group"
        return (
            f"{run}: {who} may write to it, and so change and remove what is written there; "
            f"chmod {'o' if others else 'g'}-w {run} ends that"
        )
    return None


def _written(run: Path) -> Iterator[Path]:
    """Yield what is written in place, folders before what is in them."""
    yield from (run / name for name in ADDED_TO)
    for folder in (run / name for name in FOLDERS):
        yield folder
        if folder.name != "checkpoints" and folder.is_dir():  # its links are replaced, not followed
            yield from sorted(folder.iterdir())


def _is_added_to(path: Path) -> bool:
    return path.name in ADDED_TO or path.suffix in ENDINGS


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return str(number)
