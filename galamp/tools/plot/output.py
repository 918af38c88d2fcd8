"""The file that a figure goes to: checked before anything is read, written as a whole.

-o FILE --kind_of--> png, svg or pdf --write--> FILE, new, or replaced with --overwrite
"""

from __future__ import annotations

import os
from pathlib import Path

from galamp.core.disk import replace_file, write_new
from galamp.core.errors import UserError

KINDS = ("png", "svg", "pdf")


def kind_of(path: Path, overwrite: bool) -> str:
    """Return the kind of file that a name stands for.

    Raises:
        UserError: another ending, no such folder, or the file exists and may not be replaced.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UserError(f"-o {path}: expected a name that ends in .png, .svg or .pdf")
    if not os.path.isdir(path.parent):
        raise UserError(f"-o {path}: there is no folder {path.parent}; make it first")
    if os.path.isdir(path):
        raise UserError(f"-o {path}: is a folder; add a name")
    if not overwrite and os.path.lexists(path):
        raise UserError(f"-o {path}: exists; choose another name, or give --overwrite")
    return kind


def write(path: Path, content: bytes, overwrite: bool) -> None:
    """Write the file completely or not at all.

    Raises:
        UserError: the disk refuses, or the file has come to exist.
    """
    try:
        replace_file(path, content) if overwrite else write_new(path, content)
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written: {error.strerror}") from None
