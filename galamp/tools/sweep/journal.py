"""The journal of a search: Optuna's storage in one file, after kills as well.

path --heal, storage_of--> JournalStorage
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any


class _Held:
    """Lock of the journal: nothing to do, as the sweep holds its whole folder.

    Optuna's own stays behind a process that is killed, and is waited for then.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def storage_of(path: Path) -> Any:
    """Return Optuna's storage in a file, which this process alone writes."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Held()))


def heal(path: Path) -> None:
    """Remove a last line that was not written to its end: what is added would be part of it."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        while size and not _ends_line(file, size):
            size -= 1
        file.truncate(size)


def _ends_line(file: Any, size: int) -> bool:
    file.seek(size - 1)
    return bool(file.read(1) == b"\n")
