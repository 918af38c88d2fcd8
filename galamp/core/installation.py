"""Installation lock: prevents a set-up from changing a Python environment that is in use.

    galamp run, eval, ...   hold `in-use.lock` shared, and describe themselves in `in-use/`
    bin/install.py          changes nothing before it holds `in-use.lock` exclusively

Both are in the Python environment that bin/setup has made (`.venv`). Other environments have no
`setup.lock`: no set-up changes them, and no lock is held. The locks are flocks of this process,
which children do not inherit, so they can never become stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from galamp.core.errors import UserError
from galamp.core.sanitize import one_line

SETUP_LOCK, LOCK, USERS = "setup.lock", "in-use.lock", "in-use"
"""Names in the environment's folder; bin/place.py uses the same ones."""
RUN = ", run folder "
DRAFT_GRACE_S = 60.0
"""Age from which a draft of a note is removed: its process was killed at its start."""

_notes: list[Path] = []
"""Files in which this process describes itself."""


@contextlib.contextmanager
def held(words: Sequence[str], environment: Path | None = None) -> Iterator[None]:
    """Hold the lock, so that no set-up changes the environment within the block.

    On a file system without locks, or a read-only one, nothing is held, without an error.

    Args:
        words: the command line; its first word is the command.
        environment: folder of the Python environment (default: that of the running Python).

    Raises:
        UserError: a set-up is changing it now.
    """
    folder = environment or Path(sys.prefix)
    if not os.path.exists(folder / SETUP_LOCK):
        yield
        return
    with ExitStack() as open_files:
        if _share(folder, open_files):
            _write_note(folder, words, open_files)
        yield


def name_run(run: Path) -> None:
    """Add the run folder of this process to its note, for the message of a set-up."""
    for note in _notes:
        with contextlib.suppress(OSError), note.open("r+b", buffering=0) as file:
            line = file.readline().rstrip(b"\n").partition(RUN.encode())[0]
            text = line + _line(f"{RUN}{os.path.realpath(run)}")
            os.pwrite(file.fileno(), text, 0)
            os.ftruncate(file.fileno(), len(text))


def _share(folder: Path, open_files: ExitStack) -> bool:
    """Take the shared lock; return False if the file system does not allow it."""
    path, flags = folder / LOCK, os.O_RDONLY | os.O_CLOEXEC
    try:
        try:
            lock = os.open(path, flags | os.O_CREAT, 0o644)
        except OSError:
            lock = os.open(path, flags)  # the environment belongs to another user
        open_files.callback(_close, lock)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"a set-up is changing {folder} now: start again when it has ended"
        ) from None
    except OSError:
        return False
    return True


def _write_note(folder: Path, words: Sequence[str], open_files: ExitStack) -> None:
    """Write a note: a file with one line about this process, for the message of a set-up.

    The note is locked: without a lock its process has ended. It gets its final name after it is
    locked, and notes of dead processes are removed. On a full disk there is no note.
    """
    host = socket.gethostname()
    note = folder / USERS / f"{host}-{os.getpid()}"
    draft = note.with_name(f".{note.name}")
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    command = " ".join(["galamp", *words[:1]])
    try:
        note.parent.mkdir(exist_ok=True)
        # A raw descriptor: a file object would repeat a failed write when it is closed.
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        open_files.callback(_close, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, _line(f"{command}, process {os.getpid()} on {host} since {now}"))
        draft.replace(note)
    except OSError:
        _unlink(draft)
        return
    _notes.append(note)
    open_files.callback(_remove_own, note)
    _sweep(note)


def _line(text: str) -> bytes:
    return f"{one_line(text)}\n".encode()


def _sweep(own: Path) -> None:
    """Remove the notes of processes that have ended.

    Drafts are removed only if they are old: a new draft may not be locked yet.
    """
    with contextlib.suppress(OSError):
        now_s = own.stat().st_mtime  # by the clock of the file system
        for note in own.parent.iterdir():
            with contextlib.suppress(OSError), note.open("rb", buffering=0) as file:
                age_s = now_s - os.fstat(file.fileno()).st_mtime
                if note.name.startswith(".") and age_s < DRAFT_GRACE_S:
                    continue
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                note.unlink()


def _remove_own(note: Path) -> None:
    _notes.remove(note)
    _unlink(note)


def _unlink(note: Path) -> None:
    with contextlib.suppress(OSError):
        note.unlink()


def _close(descriptor: int) -> None:
    """Close a file; a network disk may report only now that it is full."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
