"""Checks of a folder before anything is written into it, as others may have filled it.

    RUN --refuse_links--> nothing, or one line: a link, or a file with other names elsewhere
    RUN --shared_with--> other users who may write there, for a warning

Runs in the parent. Run folders come from elsewhere, in archives and by git, which contain links:
data that is appended, cut off or removed there would be another user's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from galamp.core.errors import UserError
from galamp.core.machine.process_limits import in_user_namespace
from galamp.storage.mounts import keeps_modes

FOLDERS: Final = ("checkpoints", "logs", "monitor")
"""Folders of a run."""
ADDED_TO: Final = ("lock", "metrics.jsonl", "events.jsonl", "eval.jsonl", "gossip.jsonl")
"""Files of a run that are written in place; the others are created anew and renamed."""
ENDINGS: Final = (".log", ".csv")
"""Endings of such files in the run's folders."""
WRITTEN: Final = {
    "logs": re.compile(r"((learner|simulator)-\d+(\.\d+)?|bridge|profile|wandb)\.(log|crash-.*)"),
    "monitor": re.compile(r"\d+\.monitor\.csv"),
}
"""Names in these folders that a run may write to; other files there are the user's."""
FILE: Final = "file:"
"""Prefix of the name of a gossip graph that is in a file."""
GRAPH: Final = "topology.txt"
CONTAINER_MARKS: Final = (
    ".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io",
)  # fmt: skip


def refuse_links(run: Path) -> None:
    """Check that everything written in a run folder stays in it.

    Raises:
        UserError: a folder or file of the run is a link, or has a second name; or it cannot be
            checked.
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


def check_own_graph(run: Path, topology: str) -> None:
    """Check that a run whose gossip graph is from a file has its own copy of it.

    The path in its config is of another machine, or chosen by the config's author.

    Raises:
        UserError: it has none.
    """
    if topology.startswith(FILE) and not is_own_file(run / GRAPH):
        raise UserError(
            f"{run}: its gossip graph {GRAPH} is missing, or no plain file: name the file that "
            "holds the graph once more, by --topology file:PATH"
        )


def is_own_file(path: Path) -> bool:
    """Return whether `path` is a regular file, not a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def shared_with(run: Path) -> str | None:
    """Return in one line which others may write into a run folder; None if only the user may.

    None of these is refused. Owners prove nothing: disks without owners (exFAT, SMB), containers
    and network disks that map root show another owner for the user's own files. Write access for
    the user's own group, as with umask 002, gives nobody else access on most systems; another group
    is shared on purpose. Nothing is reported for disks without owners and modes, nor to root in a
    container about the owner of its mounts: no chmod would change that.
    """
    found = os.stat(run)
    if not keeps_modes(run):
        return None
    if found.st_uid != os.geteuid():
        if os.geteuid() == 0 and in_container():
            return None
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


def in_container(root: Path = Path("/")) -> bool:
    """Return whether this process is in a container, whose users are not the machine's."""
    marked = any(map(os.path.exists, (root / name for name in CONTAINER_MARKS)))
    return marked or in_user_namespace(root / "proc")


def _written(run: Path) -> Iterator[Path]:
    """Yield the paths that are written in place, folders before their content."""
    yield from (run / name for name in ADDED_TO)
    for folder in (run / name for name in FOLDERS):
        yield folder
        if folder.name != "checkpoints" and folder.is_dir():  # its links are replaced, not followed
            pattern = WRITTEN[folder.name]
            yield from sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name))


def _is_added_to(path: Path) -> bool:
    return path.name in ADDED_TO or path.suffix in ENDINGS


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return str(number)
