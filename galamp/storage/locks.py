"""Who may write: advisory locks (flock), which end with their owner and so cannot go stale.

    RUN/lock --take_lock--> Lock: held while the run lives, its text says by whom
    cache folder --wait_for_lock--> one process at a time, within a limit

Runs in the supervisor, and in the parent while rates are measured. A process number says something
on its own machine only, so the text carries the machine's name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from galamp.errors import UserError
from galamp.storage.disk import CANNOT

LOCK = "lock"
NO_LOCKS = CANNOT | {errno.ENOLCK}
"""How flock fails where the file system has no locks, or nobody who serves them."""
OWNER_WAIT_S = 1.0
"""Longest wait for the name of a lock's owner that has only just taken it."""
POLL_S = 0.1
MOST_BYTES = 400
LOCAL_OPTIONS = frozenset({"nolock", "localflock", "local_lock=flock", "local_lock=all"})
LOCAL_TYPES = frozenset({"beegfs", "fuse.sshfs"})
"""Mounts that machines share, and on which a lock is seen by the one that has it only."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
"""How the kernel writes a space in a path."""
_OWNER = re.compile(r"process (?P<pid>\d+) on (?P<host>\S+) since .+")


class NoLocksError(UserError):
    """The file system has no locks."""


@dataclass(frozen=True)
class Lock:
    """A run folder's lock, ours until it is closed or the process dies."""

    path: Path
    file: int
    text: str

    def is_ours(self) -> bool:
        """Whether the lock of this name is still this one; if that cannot be told, it is."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            found = os.open(self.path, flags)
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        try:
            # Not by its number: that of a removed file is given anew, and some disks have none.
            return _text(found) == self.text
        except OSError:
            return True
        finally:
            os.close(found)

    def close(self) -> None:
        """Give it back: without a text, which the end of a process by force leaves there."""
        with contextlib.suppress(OSError):
            if _text(self.file) == self.text:
                os.ftruncate(self.file, 0)
        os.close(self.file)


def take_lock(folder: Path, started: datetime) -> Lock:
    """Take a run folder's lock.

    Raises:
        NoLocksError: the file system has none; nothing is left behind.
        UserError: another process has it, or may have it where this machine cannot see that.
        OSError: the disk refuses.
    """
    path = folder / LOCK
    new = not os.path.lexists(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            _lock(file)
        except NoLocksError as error:
            if new:
                path.unlink()
            raise NoLocksError(f"{folder}: {error}") from None
        except BlockingIOError:
            raise UserError(_in_use(folder, _owner(file))) from None
        if not os.fstat(file).st_nlink:
            # Its former owner never began, and took it back after we had opened it.
            raise OSError(errno.ESTALE, "another start was just refused; try again")
        _check_unseen(folder, _text(file))
        text = f"process {os.getpid()} on {host()} since {started:%Y-%m-%d %H:%M:%S}"
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{text}\n".encode(), 0)
        except OSError:
            if new:
                path.unlink()
            raise
    except BaseException:
        os.close(file)
        raise
    return Lock(path, file, text)


@contextlib.contextmanager
def wait_for_lock(
    path: Path, limit_s: float, waits: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold the lock `path`, in a folder that exists; yield whether it was got within `limit_s`.

    `waits` is called once if another process has it. Where there are no locks, or the file cannot
    be made, nobody waits.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _got(file, limit_s, waits)
    finally:
        os.close(file)


def _got(file: int, limit_s: float, waits: Callable[[], object]) -> bool:
    until_s, told = time.monotonic() + limit_s, False
    while True:
        try:
            _lock(file)
            return True
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
        except (OSError, NoLocksError):
            return False
        if not told:
            waits()
            told = True
        time.sleep(POLL_S)


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise NoLocksError(
            f"this file system has no locks ({error.strerror}), which keep two runs out of one "
            "folder: use --run-dir on a local disk"
        ) from None


def _in_use(folder: Path, owner: str) -> str:
    match = _OWNER.fullmatch(owner)
    if match and match["host"] != host():
        return (
            f"{folder}: in use on another machine, by {owner}; stop it there, or choose another "
            "--run-dir"
        )
    return f"{folder}: in use by {owner}; stop that first, or choose another --run-dir"


def _check_unseen(folder: Path, owner: str) -> None:
    """Refuse a lock that another machine may hold, where locks do not reach beyond a machine.

    Elsewhere a lock that could be taken is free, whoever was killed while it was his.

    Raises:
        UserError: it may be held.
    """
    match = _OWNER.fullmatch(owner)
    if match and match["host"] != host() and (why := local_locks(folder)):
        raise UserError(
            f"{folder}: {owner} has not given it back, and locks are not seen from machine to "
            f"machine here ({why}): if that process has ended, remove {folder / LOCK}"
        )


def local_locks(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Say why a lock in `folder` is seen on this machine only, though others may share the disk.

    Returns:
        The mount's type or option; "" where locks reach everyone, as far as the kernel tells.
    """
    place, found = os.path.realpath(folder), ("", "", "")
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, details = before.split(), after.split()
        if len(fields) < 6 or len(details) < 3:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = os.path.commonpath([point, place]) == point
        if inside and len(point) >= len(found[0]):
            found = (point, details[0], f"{fields[5]},{details[2]}")
    _, kind, options = found
    if kind in LOCAL_TYPES:
        return kind
    return next((f"{kind}, {o}" for o in options.split(",") if o in LOCAL_OPTIONS), "")


def _owner(file: int) -> str:
    """Return what the owner says of itself, which it does an instant after it has the lock."""
    text, deadline_s = "", time.monotonic() + OWNER_WAIT_S
    with contextlib.suppress(OSError):  # SMB: what is locked may not even be read
        while not (text := _text(file)) and time.monotonic() < deadline_s:
            time.sleep(0.005)
    return text or "another process"


def _text(file: int) -> str:
    text = os.pread(file, MOST_BYTES, 0).decode(errors="replace").strip()
    return text if text.isprintable() else ""


def host() -> str:
    """Return this machine's name, in one word."""
    return "".join(platform.node().split()) or "localhost"
