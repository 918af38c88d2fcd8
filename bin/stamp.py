"""Tells whether `.venv` matches the files that it was made from; run by bin/setup at every start.

`stamp.py EXTRA` answers by its exit code. It imports as little as it can, because every start waits
for it; `install.py` writes the stamps that it reads.
"""

from __future__ import annotations

import os
import sys
from hashlib import sha256

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
MADE_FROM = ("setup.cfg", "pyproject.toml", "bin/constraints.txt")


def path(extra: str) -> str:
    """Return the file that says that the environment is complete with `extra` ("" for none)."""
    return os.path.join(ROOT, ".venv", f"setup.done-{extra}" if extra else "setup.done")


def fingerprint(extra: str, version: str) -> str:
    """Hash all that the environment depends on: files, extra, Python's `version`, place on disk."""
    parts = [extra.encode(), version.strip().encode(), os.fsencode(ROOT)]
    for name in MADE_FROM:
        with open(os.path.join(ROOT, name), "rb") as file:
            parts.append(file.read())
    return sha256(b"\0".join(parts)).hexdigest()


def ready(extra: str, version: str) -> bool:
    """Whether the environment, run by a Python of `version`, is complete and current."""
    try:
        with open(path(extra), encoding="utf-8") as file:
            return file.read() == fingerprint(extra, version)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if ready(sys.argv[1], sys.version) else 1)
