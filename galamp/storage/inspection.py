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
ADDED_TO: Final = ("lock", "metrics.jsonl", "events.jsonl", "gossip.jsonl")
"""Files of a run that are written in place; the others are made anew and renamed."""
ENDINGS: Final = (".log", ".csv")
"""The same in its folders."""
WRITTEN: Final = {
    "logs": re.compile(r"(learner|simulator)-\d+(\.\d+)?\.(log|crash-.*)"),
    "monitor": re.compile(r"\d+\.monitor\.csv"),
}
"""Names in these folders that a run may write to; what else lies there is the user's."""
FILE: Final = "file:"
"""How the name of a gossip graph begins that is in a file."""
GRAPH: Final = "topology.txt"
CONTAINER_MARKS: Final = (
    ".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io",
)  # fmt: skip


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


def check_own_graph(run: Path, topology: str) -> None:
    """See that a run whose gossip graph is of a file has its own copy of it.

    The path in its config is another machine's, or whoever wrote the config has chosen it.

    Raises:
        UserError: it has none.
    """
    if topology.startswith(FILE) and not is_own_file(run / GRAPH):
        raise UserError(
            f"{run}: its gossip graph {GRAPH} is missing, or no plain file: name the file that "
            "holds the graph once more, by --topology file:PATH"
        )


def is_own_file(path: Path) -> bool:
    """Whether there is a plain file of this name, rather than a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def shared_with(run: Path) -> str | None:
    """Say in one line who else may write into a run folder; None if it is the user's alone.

    None of that is refused. Owners are no proof: disks without any (exFAT, SMB), containers and
    networks that map root to nobody show another one for what is the user's own. A folder that
    the user's own group may write to, as with umask 002, is nobody else's on most systems; one of
    another group is shared on purpose. Nothing is said of disks without owners and modes, nor to
    root in a container of whoever owns what it was given: no chmod would change that.
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
    """Whether this process is in a container, whose users are not those of the machine."""
    marked = any(map(os.path.exists, (root / name for name in CONTAINER_MARKS)))
    return marked or in_user_namespace(root / "proc")


def _written(run: Path) -> Iterator[Path]:
    """Yield what is written in place, folders before what is in them."""
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
