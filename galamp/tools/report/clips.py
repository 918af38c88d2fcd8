"""The clip in a report: the file that is named, or the newest video in the run folder.

FILE, RUN/*.mp4, *.webm, *.gif --clip_of--> Clip: its content and media type
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from galamp.core.disk import read_limited
from galamp.core.errors import UserError

KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
"""End of a file's name -> media type."""
MAX_BYTES = 64 * 2**20
"""Largest clip: a page of more would not open well."""


class Clip(NamedTuple):
    """A clip, whole."""

    name: str
    kind: str
    content: bytes


def clip_of(run: Path, named: Path | None) -> Clip | None:
    """Return the clip that is named, else the run's newest, if it has one that is small enough.

    Raises:
        UserError: the one that is named cannot be used.
    """
    if named is None:
        return _newest(run)
    kind = KINDS.get(named.suffix.lower())
    if kind is None:
        raise UserError(f"--clip {named}: expected a name that ends in {', '.join(KINDS)}")
    try:
        return Clip(named.name, kind, read_limited(named, MAX_BYTES))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--clip {named}: cannot be read: {why}; name another") from None


def _newest(run: Path) -> Clip | None:
    found: list[tuple[float, Path]] = []
    try:
        paths = [path for path in run.iterdir() if path.suffix.lower() in KINDS]
        found = [(path.lstat().st_mtime, path) for path in paths if not path.is_symlink()]
    except OSError:
        return None
    for _, path in sorted(found, reverse=True):
        try:
            return Clip(path.name, KINDS[path.suffix.lower()], read_limited(path, MAX_BYTES))
        except OSError:
            continue
    return None
