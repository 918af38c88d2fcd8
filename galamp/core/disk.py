"""Writing that outlives a crash, and opening that is not led astray.

Runs in every process that writes a file to keep: the supervisor, and evaluation for its report.
A name that readers look at never stands for half of what belongs to it.

    content ------> write_new: fsync ----------------------------------> new file
    values -------> replace_json: write_new, rename, sync_folder ------> JSON file, new or old
    path ---------> open_to_append, open_log --------------------------> file to add to, no link
    open folder --> open_unfollowed -----------------------------------> file to read
    path ---------> open_plain, read_limited --------------------------> file to read, content
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from galamp.core.errors import UserError

CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""How a file system says that it has no such call at all, rather than that the call failed."""

TEMPORARY_GRACE_S = 86_400.0
"""What another machine has left under a temporary name stays so long, by the disk's own clock."""

_TEMPORARY = re.compile(r"\.tmp-(?:([0-9a-f]{8})-)?(\d{1,9})-[0-9a-f]{8}")
_ours: set[str] = set()
"""Temporary names that this process uses now; others under its number are a dead namesake's."""


def write_new(path: Path, content: bytes) -> None:
    """Create a file that must not exist, and wait until the disk has it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        _sync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries, as far as it can be asked to."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # one that may be written to and not listed, such as a drop box
    try:
        _sync(opened)
    finally:
        os.close(opened)


def _sync(file: int) -> None:
    """Wait until the disk has an open file or folder; some file systems cannot be asked to."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def open_to_append(path: Path) -> int:
    """Open a file for adding to it and for cutting off its end; it is made where there is none.

    Raises:
        OSError: it cannot be opened, is a link, or is no plain file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a link, through which nothing is written") from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return file


def open_log(path: str | Path) -> int:
    """Open a process's log for adding to it; where that cannot be, what is said goes nowhere.

    A log that is lost, in a folder that was removed or on a disk that refuses, ends no process.
    """
    try:
        return open_to_append(Path(path))
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def replace_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all; what is not finite becomes null."""
    replace_file(path, json.dumps(finite(values), allow_nan=False, indent=2).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; of several writers at once each is whole, the last stays.

    A link in its place is replaced, not followed.
    """
    with replacing(path, content):
        pass


@contextlib.contextmanager
def replacing(path: Path, content: bytes) -> Iterator[None]:
    """Replace a file as the block ends, unless that raises; the disk has room for it before."""
    with temporary_name(path.parent) as temporary:
        write_new(temporary, content)
        yield
        temporary.replace(path)
    sync_folder(path.parent)


def finite(value: Any) -> Any:
    """Return `value` with null for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(leaf) for key, leaf in value.items()}
    if isinstance(value, list | tuple):
        return [finite(leaf) for leaf in value]
    numpy = sys.modules.get("numpy")  # loaded by whoever has one of its numbers
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def temporary_name(folder: Path) -> Iterator[Path]:
    """Yield a name in `folder` that no reader looks at; whatever is there at the end is removed."""
    path = folder / f".tmp-{_machine()}-{os.getpid()}-{os.urandom(4).hex()}"
    _ours.add(path.name)
    try:
        yield path
    finally:
        _remove(path)
        _ours.discard(path.name)


def remove_stale(folder: Path, *, alone: bool = False) -> None:
    """Remove what processes that are no more left under temporary names.

    Whether a process of another machine, or container, lives cannot be seen from here: its names go
    by their age. Where this process is `alone` in writing there, all names but its own go.
    """
    for name in os.listdir(folder):
        match = _TEMPORARY.fullmatch(name)
        if match is None or name in _ours:
            continue
        if alone:
            _remove(folder / name)
            continue
        here = match[1] in (None, _machine())
        if not _lives_elsewhere(int(match[2])) if here else _is_old(folder / name):
            _remove(folder / name)


def open_unfollowed(folder: int, name: str) -> int:
    """Open for reading what has this name in an open folder, unless it is a link."""
    # Without O_NONBLOCK a named pipe in a file's place would hold the reader for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)


def in_home(path: str | Path) -> Path:
    """Return a path whose first part may be `~` or `~user`, for that user's home.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no user of that name; check the path") from None


def read_limited(path: Path, most_bytes: int) -> bytes:
    """Return the content of a plain file, which nobody but galamp should have made large.

    Raises:
        OSError: it cannot be read, is no plain file, or is too large.
    """
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return content


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open for reading what has this name, unless it is a pipe or a device, which may never end.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    with open(opened, "rb") as file:
        yield file


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_old(path: Path) -> bool:
    """Whether nothing has changed in it for long, its folder having changed since."""
    try:
        return os.stat(path.parent).st_mtime - os.lstat(path).st_mtime > TEMPORARY_GRACE_S
    except OSError:
        return False


def _machine() -> str:
    """Return a name of the place where this process's number means something.

    That is this machine, or on it this container.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _lives_elsewhere(pid: int) -> bool:
    """Whether another process of this machine has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


Where = Callable[[Path], Path | None]
"""Where something in the run folder is now; None if nothing may be written there. That is told by
who runs the run, once."""


def as_named(path: Path) -> Path:
    """Say that a path is what it is: what belongs to no run is not moved by anybody."""
    return path
