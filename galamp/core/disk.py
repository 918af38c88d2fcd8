"""Files: writes that survive a crash, and opens that do not follow links, pipes or devices.

Used by every process that writes files: the supervisor, and evaluation for its report. A reader
never sees a half-written file under its final name.

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

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Error numbers of a file system that does not have a call at all; others mean that it failed."""

TEMPORARY_GRACE_S = 86_400.0
"""Age, by the disk's clock, from which temporary files of other machines are removed."""

TEMPORARY = re.compile(r"\.tmp-(?:([0-9a-f]{8})-)?(\d{1,9})-[0-9a-f]{8}")
"""Temporary names, with the machine, where it is known, and the process that made them."""
_ours: set[str] = set()
"""Temporary names in use by this process; others with its id are from an earlier, dead process."""


def write_new(path: Path, content: bytes) -> None:
    """Create a file that must not exist yet, and wait until it is on the disk.

    Raises:
        OSError: it exists, or cannot be written; then there is no part of it.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        _sync(file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk, if the file system supports that."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder that is writable but not readable, such as a drop box
    try:
        _sync(opened)
    finally:
        os.close(opened)


def _sync(file: int) -> None:
    """Wait until an open file or folder is on the disk, if the file system supports that."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def open_to_append(path: Path) -> int:
    """Open a file to append to it or to truncate it; create it if it does not exist.

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
    """Open the log of a process to append to it; if that fails, open /dev/null.

    A missing log, in a removed folder or on a full disk, must not end a process.
    """
    try:
        return open_to_append(Path(path))
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def replace_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file completely or not at all; numbers that are not finite become null."""
    replace_file(path, json.dumps(finite(values), allow_nan=False, indent=2).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; of several writers at once, the last one wins.

    A link of that name is replaced, not followed.
    """
    with replacing(path, content):
        pass


@contextlib.contextmanager
def replacing(path: Path, content: bytes) -> Iterator[None]:
    """Replace a file when the block ends, unless it raises; the content is on disk before."""
    with temporary_name(path.parent) as temporary:
        write_new(temporary, content)
        yield
        temporary.replace(path)
    sync_folder(path.parent)


def finite(value: Any) -> Any:
    """Return `value` with None for every number that JSON cannot express."""
    if isinstance(value, dict):
        return {key: finite(leaf) for key, leaf in value.items()}
    if isinstance(value, list | tuple):
        return [finite(leaf) for leaf in value]
    numpy = sys.modules.get("numpy")  # already loaded if `value` is one of its numbers
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def temporary_name(folder: Path) -> Iterator[Path]:
    """Yield a temporary name in `folder`; readers ignore it, and it is removed at the end."""
    path = folder / f".tmp-{_machine()}-{os.getpid()}-{os.urandom(4).hex()}"
    _ours.add(path.name)
    try:
        yield path
    finally:
        _remove(path)
        _ours.discard(path.name)


def remove_stale(folder: Path, *, alone: bool = False) -> None:
    """Remove temporary files that dead processes have left in `folder`.

    For a process of another machine or container it is unknown whether it is alive: its files are
    removed by age. If this process is `alone` in writing there, all files but its own are removed.
    """
    for name in os.listdir(folder):
        match = TEMPORARY.fullmatch(name)
        if match is None or name in _ours:
            continue
        if alone:
            _remove(folder / name)
            continue
        here = match[1] in (None, _machine())
        if not _lives_elsewhere(int(match[2])) if here else _is_old(folder / name):
            _remove(folder / name)


def open_unfollowed(folder: int, name: str) -> int:
    """Open a file by name in an open folder, for reading, unless it is a link."""
    # Without O_NONBLOCK a named pipe in place of a file would block the reader for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)


def in_home(path: str | Path) -> Path:
    """Return `path` with a first part `~` or `~user` replaced by that user's home.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no user of that name; check the path") from None


def read_limited(path: Path, most_bytes: int) -> bytes:
    """Return the content of a plain file of at most `most_bytes`.

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
    """Open a plain file for reading; pipes and devices, which may be endless, are refused.

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
    """Whether the file is older than its folder's last change by `TEMPORARY_GRACE_S`."""
    try:
        return os.stat(path.parent).st_mtime - os.lstat(path).st_mtime > TEMPORARY_GRACE_S
    except OSError:
        return False


def _machine() -> str:
    """Return a name of this machine, or of this container on it: the scope of process ids."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _lives_elsewhere(pid: int) -> bool:
    """Whether another live process of this machine has this process id."""
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
"""Current path of a file in the run folder; None if nothing may be written there. Its owner, the
run, reports that once."""


def as_named(path: Path) -> Path:
    """Return `path` itself: the `Where` of files outside a run folder, which are never moved."""
    return path
