"""Who may write: advisory locks (flock), which end with their owner and so cannot go stale.

    RUN/lock --take_lock--> Lock: held while the run lives, its text says by whom
    Lock --standing_in, place--> whose lock lies in a folder, where the locked folder is now
    RUN --owner_in--> Owner: whom the text names, for who only looks
    cache folder --wait_for_lock--> one process at a time, within a limit

Runs in the supervisor, in the parent while rates are measured, and in visitors of a run. A process
number says something on its own machine only, so the text carries the machine's name.
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

from galamp.core.disk import CANNOT
from galamp.core.errors import UserError
from galamp.storage.mounts import local_locks

LOCK = "lock"
NO_LOCKS = CANNOT | {errno.ENOLCK}
"""How flock fails where the file system has no locks, or nobody who serves them."""
OWNER_WAIT_S = 1.0
"""Longest wait for the name of a lock's owner that has only just taken it."""
POLL_S = 0.1
MAX_BYTES = 400

_OWNER = re.compile(
    r"(?P<owner>process (?P<pid>\d{1,9}) on (?P<host>\S+) since .+?)(, start [0-9a-f]{16})?"
)
"""What an owner says of itself, and which start it is; an older galamp leaves that out."""


class NoLocksError(UserError):
    """The file system has no locks."""


class Standing(Enum):
    """Whose lock lies in a folder."""

    OURS = "ours"
    MISSING = "missing"
    ANOTHERS = "another's"


class Owner(NamedTuple):
    """Whom a lock's text names; it stays there if that process is killed.

    Attributes:
        words: process, machine, and since when.
        here: whether it is of this machine.
        lives: whether it lives and has the lock's file open, which is seen on its own machine only.
    """

    words: str
    here: bool
    lives: bool


@dataclass(frozen=True)
class Lock:
    """A run folder's lock, ours until it is closed or the process dies.

    Attributes:
        path: where it was taken.
        file: the file, open and locked.
        text: its content, which no other start writes.
        folder: the run folder, open: it is that one wherever it is moved to.
    """

    path: Path
    file: int
    text: str
    folder: int

    def standing_in(self, folder: Path) -> Standing:
        """Return whose lock lies in `folder`; if that cannot be told, ours."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            found = os.open(folder / LOCK, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return Standing.MISSING
            return Standing.ANOTHERS if error.errno == errno.ELOOP else Standing.OURS
        try:
            # Not by its number: that of a removed file is given anew, and some disks have none.
            return Standing.OURS if _text(found) == self.text else Standing.ANOTHERS
        except OSError:
            return Standing.OURS
        finally:
            os.close(found)

    def is_on(self, folder: Path) -> bool:
        """Whether `folder` is the one that was locked."""
        try:
            return os.path.samestat(os.stat(folder), os.fstat(self.folder))
        except OSError:
            return False

    def place(self) -> Path | None:
        """Return where the folder is now; None if nowhere, or where nobody can tell."""
        try:
            found = Path(os.readlink(f"/proc/self/fd/{self.folder}"))
        except OSError:
            return None
        return found if self.is_on(found) else None

    def folder_is_removed(self) -> bool:
        """Whether it is certain that the folder has no name any more."""
        try:
            return os.fstat(self.folder).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE

    def renewed(self, folder: Path) -> Lock:
        """Return this lock once its file, which somebody has removed, is made again in `folder`.

        Raises:
            FileExistsError, BlockingIOError: another start was quicker.
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
        """Give it back: without a text, which the end of a process by force leaves there."""
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
            # Its former owner never began, and took it back after we had opened it.
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
    """Return whom the lock in `folder` names, without taking it; None where it names nobody."""
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
    """Whether a process of this machine has a file open: numbers of dead processes come again.

    One whose files cannot be looked at, as it is another user's, lives at least.
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
    """Write who has the lock; where the disk refuses, a `new` file is removed."""
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{text}\n".encode(), 0)
    except OSError:
        if new is not None:
            new.unlink()
        raise


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
    owner = match["owner"] if match else owner
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
            f"{folder}: {match['owner']} has not given it back, and locks are not seen from "
            f"machine to machine here ({why}): if that process has ended, remove {folder / LOCK}"
        )


def _owner(file: int) -> str:
    """Return what the owner says of itself, which it does an instant after it has the lock."""
    text, deadline_s = "", time.monotonic() + OWNER_WAIT_S
    with contextlib.suppress(OSError):  # SMB: what is locked may not even be read
        while not (text := _text(file)) and time.monotonic() < deadline_s:
            time.sleep(0.005)
    return text or "another process"


def _text(file: int) -> str:
    text = os.pread(file, MAX_BYTES, 0).decode(errors="replace").strip()
    return text if text.isprintable() else ""


def host() -> str:
    """Return this machine's name, in one word."""
    return "".join(platform.node().split()) or "localhost"
