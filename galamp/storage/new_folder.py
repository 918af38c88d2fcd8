"""Making the folder of a new run: its name, and what is taken back if the run never starts."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def name_part(text: str) -> str:
    """Return the last part of an environment id or a label, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text.rsplit("/", 1)[-1]).strip(".-") or "run"


def make_new(root: Path, label: str) -> Path:
    """Create a folder that no other run has, even one started in the same second."""
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = root / (label if number == 1 else f"{label}-{number}")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return path


def missing(path: Path) -> tuple[Path, ...]:
    """Return `path` and the folders above it that do not exist, the innermost first."""
    return tuple(each for each in (path, *path.parents) if not os.path.lexists(each))


def remove_empty(folders: tuple[Path, ...]) -> None:
    """Remove folders until one is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
