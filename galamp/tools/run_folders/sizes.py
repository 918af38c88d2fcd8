"""Sizes of files and folders on the disk.

folder --size_of--> bytes --size_text--> `73.4 MiB`
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_of(path: Path) -> int:
    """Return the bytes that a file, or a folder with all in it, takes; links are not followed.

    What cannot be looked at counts nothing.
    """
    total = 0
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        total = found.st_blocks * 512
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def size_text(size: float) -> str:
    """Return a size in its largest unit: `512 bytes`, `73.4 MiB`."""
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return (
        f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 99.95 else f"{size:.1f} {UNITS[unit]}"
    )
