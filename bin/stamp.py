"""Tells whether an environment matches the files that it was made from; run at every start.

`stamp.py EXTRA FOLDER` answers by its exit code. It imports as little as it can, because every
start waits for it; `install.py` writes the stamps that it reads.
"""

from __future__ import annotations

import os
import sys
from hashlib import sha256

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
MADE_FROM = ("setup.cfg", "pyproject.toml", "bin/constraints.txt")


def kind() -> str:
    """Return which environments this Python can run, such as `3.11-x86_64`.

    Not the third number of its version: packages do not depend on it, and machines that share a
    folder may differ in it.
    """
    return f"{sys.version_info[0]}.{sys.version_info[1]}-{os.uname().machine}"


def path(folder: str, extra: str) -> str:
    """Return the file that says that the environment is complete with `extra` ("" for none)."""
    return os.path.join(folder, f"setup.done-{extra}" if extra else "setup.done")


def fingerprint(extra: str, folder: str, kind: str) -> str:
    """Hash all that the environment depends on: files, extra, kind of Python, places on disk."""
    parts = [extra.encode(), kind.encode(), os.fsencode(ROOT)]
    parts.append(os.fsencode(os.path.realpath(folder)))
    for name in MADE_FROM:
        with open(os.path.join(ROOT, name), "rb") as file:
            parts.append(file.read())
    return sha256(b"\0".join(parts)).hexdigest()


def ready(extra: str, folder: str, kind: str) -> bool:
    """Whether the environment, run by a Python of this kind, is complete and current."""
    try:
        with open(path(folder, extra), encoding="utf-8") as file:
            return file.read() == fingerprint(extra, folder, kind)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if ready(sys.argv[1], sys.argv[2], kind()) else 1)
