"""Keeps a set-up from changing an environment under a process that runs from it.

    galamp run, eval, ...   hold `in-use.lock` shared, and say who they are in `in-use/`
    bin/install.py          changes nothing without `in-use.lock` for itself alone

Both lie in the environment that bin/setup has made (`.venv`). Other environments have no
`setup.lock`, nobody changes them, and nothing is held. Locks are flocks of this process alone, of
which no child knows, so none can go stale.
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
"""Names in the environment's folder: bin/place.py knows them as well."""
RUN = ", run folder "
DRAFT_S = 60.0
"""A note that has no name after so long is of a process that was killed at its start."""

_notes: list[Path] = []
"""The files in which this process says who it is."""


@contextlib.contextmanager
def held(words: Sequence[str], environment: Path | None = None) -> Iterator[None]:
    """Keep the environment as it is until the block ends.

    A file system without locks, or one that may not be written to, keeps nobody from working.

    Args:
        words: the command line, of which the first word says what this process does.
        environment: the folder (default: that of the Python which runs this).

    Raises:
        UserError: a set-up is changing it now.
    """
    folder = environment or Path(sys.prefix)
    if not os.path.exists(folder / SETUP_LOCK):
        yield
        return
    with ExitStack() as open_files:
        if _share(folder, open_files):
            _say_who(folder, words, open_files)
        yield


def name_run(run: Path) -> None:
    """Say which run this process trains, should a set-up come."""
    for note in _notes:
        with contextlib.suppress(OSError), note.open("r+b", buffering=0) as file:
            line = file.readline().rstrip(b"\n").partition(RUN.encode())[0]
            text = line + _line(f"{RUN}{os.path.realpath(run)}")
            os.pwrite(file.fileno(), text, 0)
            os.ftruncate(file.fileno(), len(text))


def _share(folder: Path, open_files: ExitStack) -> bool:
    """Take the shared lock; returns False where there is none to be had."""
    path, flags = folder / LOCK, os.O_RDONLY | os.O_CLOEXEC
    try:
        try:
            lock = os.open(path, flags | os.O_CREAT, 0o644)
        except OSError:
            lock = os.open(path, flags)  # of an environment that is its owner's to write to
        open_files.callback(_close, lock)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"a set-up is changing {folder} now: start again when it has ended"
        ) from None
    except OSError:
        return False
    return True


def _say_who(folder: Path, words: Sequence[str], open_files: ExitStack) -> None:
    """Write a file with one line for people; it is locked, so one that is not is of nobody.

    It gets its name once it is locked; those that killed processes have left are taken away. On a
    full disk there is none.
    """
    host = socket.gethostname()
    note = folder / USERS / f"{host}-{os.getpid()}"
    draft = note.with_name(f".{note.name}")
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    command = " ".join(["galamp", *words[:1]])
    try:
        note.parent.mkdir(exist_ok=True)
        # A raw descriptor: a file object would write what the disk refused once more as it closes.
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        open_files.callback(_close, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, _line(f"{command}, process {os.getpid()} on {host} since {now}"))
        draft.replace(note)
    except OSError:
        _unlink(draft)
        return
    _notes.append(note)
    open_files.callback(_forget, note)
    _sweep(note)


def _line(text: str) -> bytes:
    return f"{one_line(text)}\n".encode()


def _sweep(own: Path) -> None:
    """Remove the files of processes that have ended.

    Those that have no name yet, if old: a new one may be about to be locked.
    """
    with contextlib.suppress(OSError):
        now_s = own.stat().st_mtime  # by the clock of the file system
        for note in own.parent.iterdir():
            with contextlib.suppress(OSError), note.open("rb", buffering=0) as file:
                age_s = now_s - os.fstat(file.fileno()).st_mtime
                if note.name.startswith(".") and age_s < DRAFT_S:
                    continue
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                note.unlink()


def _forget(note: Path) -> None:
    _notes.remove(note)
    _unlink(note)


def _unlink(note: Path) -> None:
    with contextlib.suppress(OSError):
        note.unlink()


def _close(descriptor: int) -> None:
    """Close; a disk over a network may tell only now that it is full."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
