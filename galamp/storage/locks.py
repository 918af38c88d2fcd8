"""Advisory locks (flock) of run folders; they end with their owner and so cannot become stale.

    RUN/lock --take_lock--> Lock: held while the run is alive, its text names the owner
    Lock --standing_in, place--> whose lock is in a folder, where the locked folder is now
    RUN --owner_in--> Owner: the owner that the text names, for commands that only read
    cache folder --wait_for_lock--> one process at a time, with a timeout

Runs in the supervisor, in the parent while rates are measured, and in the control clients. A pid
has a meaning on its own machine only, so the text contains the machine's name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from galamp.core.disk import UNSUPPORTED
from galamp.core.errors import UserError
from galamp.storage.mounts import local_locks

LOCK = "lock"
NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}
"""Errors of flock() on file systems without locks, or without a lock server."""
OWNER_WAIT_S = 1.0
"""Longest wait for the name of an owner that has only just taken the lock."""
POLL_S = 0.1
MAX_BYTES = 400

_OWNER = re.compile(
    r"(?P<owner>process (?P<pid>\d{1,9}) on (?P<host>\S+) since .+?)(, start [0-9a-f]{16})?"
)
"""Owner text: the process, and which start it is; an older galamp omits the start."""


class NoLocksError(UserError):
    """The file system has no locks."""


class Standing(Enum):
    """Owner of the lock in a folder."""

    OURS = "ours"
    MISSING = "missing"
    ANOTHERS = "another's"


class Owner(NamedTuple):
    """The owner that a lock's text names; the text remains if that process is killed.

    Attributes:
        words: process, machine, and since when.
        here: whether it is of this machine.
        lives: whether it runs and has the lock file open; known on its own machine only.
    """

    words: str
    here: bool
    lives: bool


@dataclass(frozen=True)
class Lock:
    """A run folder's lock, held until it is closed or the process ends.

    Attributes:
        path: where it was taken.
        file: the file, open and locked.
        text: its content, which no other start writes.
        folder: the run folder, open: it stays the same wherever it is moved.
    """

    path: Path
    file: int
    text: str
    folder: int

    def standing_in(self, folder: Path) -> Standing:
        """Return the owner of the lock in `folder`; OURS if that cannot be determined."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            found = os.open(folder / LOCK, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return Standing.MISSING
            return Standing.ANOTHERS if error.errno == errno.ELOOP else Standing.OURS
        try:
            # Not by its inode number: it may be reused, and some disks have none.
            return Standing.OURS if _text(found) == self.text else Standing.ANOTHERS
        except OSError:
            return Standing.OURS
        finally:
            os.close(found)

    def is_on(self, folder: Path) -> bool:
        """Return whether `folder` is the one that was locked."""
        try:
            return os.path.samestat(os.stat(folder), os.fstat(self.folder))
        except OSError:
            return False

    def place(self) -> Path | None:
        """Return where the folder is now; None if it has no path, or that cannot be determined."""
        try:
            found = Path(os.readlink(f"/proc/self/fd/{self.folder}"))
        except OSError:
            return None
        return found if self.is_on(found) else None

    def folder_is_removed(self) -> bool:
        """Return whether it is certain that the folder was removed."""
        try:
            return os.fstat(self.folder).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE

    def renewed(self, folder: Path) -> Lock:
        """Return this lock with a new file in `folder`, in place of a removed one.

        Raises:
            FileExistsError, BlockingIOError: another start was faster.
            OSError, NoLocksError: the disk refuses.
        """
        path = folder / LOCK
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(path, flags, 0o600)
        try:
            _lock(file)
            _sign(file, self.text, path)
        except NoLocksError:
            os.close(file)
            path.unlink()
            raise
        except OSError:
            os.close(file)
            raise
        os.close(self.file)
        return replace(self, path=path, file=file)

    def close(self) -> None:
        """Release the lock, without text in it; the text remains where a process is killed."""
        with contextlib.suppress(OSError):
            if _text(self.file) == self.text:
                os.ftruncate(self.file, 0)
        os.close(self.file)
        os.close(self.folder)


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
            # Its previous owner never started, and removed it after this process had opened it.
            raise OSError(errno.ESTALE, "another start was just refused; try again")
        _check_unseen(folder, _text(file))
        since = f"{started:%Y-%m-%d %H:%M:%S}"
        text = f"process {os.getpid()} on {host()} since {since}, start {secrets.token_hex(8)}"
        _sign(file, text, path if new else None)
        opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(file)
        raise
    return Lock(path, file, text, opened)


def owner_in(folder: Path) -> Owner | None:
    """Return the owner that the lock in `folder` names, without taking it; None without a name."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(file)
        match = _OWNER.fullmatch(_text(file)) if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None
    finally:
        os.close(file)
    if match is None:
        return None
    here = match["host"] == host()
    return Owner(match["owner"], here, here and _has_open(int(match["pid"]), found))


def _has_open(pid: int, found: os.stat_result) -> bool:
    """Return whether a process of this machine has a file open: pids are reused.

    A process whose open files cannot be read, as another user's, counts if it is alive.
    """
    files = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(files):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(f"{files}/{name}"), found):
                    return True
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM)
    return False


def _sign(file: int, text: str, new: Path | None) -> None:
    """Write the owner text; if the disk refuses, a `new` file is removed."""
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{text}\n".encode(), 0)
    except OSError:
        if new is not None:
            new.unlink()
        raise


@contextlib.contextmanager
def wait_for_lock(
    path: Path, timeout_s: float, waits: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold the lock `path`, in a folder that exists; yields whether it was acquired in time.

    `waits` is called once if another process has it. Where there are no locks, or the file cannot
    be created, there is no wait.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _got(file, timeout_s, waits)
    finally:
        os.close(file)


def _got(file: int, timeout_s: float, waits: Callable[[], object]) -> bool:
    until_s, told = time.monotonic() + timeout_s, False
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
    owner = match["owner"] if match else owner
    if match and match["host"] != host():
        return (
            f"{folder}: in use on another machine, by {owner}; stop it there, or choose another "
            "--run-dir"
        )
    return f"{folder}: in use by {owner}; stop that first, or choose another --run-dir"


def _check_unseen(folder: Path, owner: str) -> None:
    """Refuse a lock that another machine may hold, where locks are not seen between machines.

    Elsewhere a lock that can be taken is free, even if its owner was killed.

    Raises:
        UserError: it may be held.
    """
    match = _OWNER.fullmatch(owner)
    if match and match["host"] != host() and (why := local_locks(folder)):
        raise UserError(
            f"{folder}: {match['owner']} has not given it back, and locks are not seen from "
            f"machine to machine here ({why}): if that process has ended, remove {folder / LOCK}"
        )


def _owner(file: int) -> str:
    """Return the owner text, which the owner writes an instant after it has the lock."""
    text, deadline_s = "", time.monotonic() + OWNER_WAIT_S
    with contextlib.suppress(OSError):  # SMB: a locked file may not even be readable
        while not (text := _text(file)) and time.monotonic() < deadline_s:
            time.sleep(0.005)
    return text or "another process"


def _text(file: int) -> str:
    text = os.pread(file, MAX_BYTES, 0).decode(errors="replace").strip()
    return text if text.isprintable() else ""


def host() -> str:
    """Return this machine's name, as one word."""
    return "".join(platform.node().split()) or "localhost"
