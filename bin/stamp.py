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
TORCH = "setup.torch"
"""The file that keeps which torch the last set-up was asked for, from where, and what it got."""


def kind() -> str:
    """Return which environments this Python can run, such as `3.11-x86_64`.

    Not the third number of its version: packages do not depend on it, and machines that share a
    folder may differ in it.
    """
    return f"{sys.version_info[0]}.{sys.version_info[1]}-{os.uname().machine}"


def path(folder: str, extra: str) -> str:
    """Return the file that says that the environment is complete with `extra` ("" for none)."""
    return os.path.join(folder, f"setup.done-{extra}" if extra else "setup.done")


def bare(text: str) -> str:
    """Return an address, or a text with one, without user and password."""
    before, mark, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return before + mark + host.rpartition("@")[2] + slash + path


def torch_kept(folder: str) -> tuple[str, str, str]:
    """Return what the last set-up kept: GALAMP_TORCH, GALAMP_TORCH_INDEX, the build it got."""
    try:
        with open(os.path.join(folder, TORCH), "rb") as file:
            asked, index, build = file.read().removesuffix(b"\n").split(b"\n")
    except (OSError, ValueError):
        return "", "", ""
    return os.fsdecode(asked), os.fsdecode(index), os.fsdecode(build)


def torch_asked(folder: str) -> tuple[str, str]:
    """Return GALAMP_TORCH and GALAMP_TORCH_INDEX as they are set, or else as they were kept.

    So they need to be set once: a start without them does not bring another torch.
    """
    asked, index, _ = torch_kept(folder)
    return _set_now("GALAMP_TORCH") or asked, _set_now("GALAMP_TORCH_INDEX") or index


def _set_now(name: str) -> str:
    value = bare(os.environ.get(name, "").replace("\n", " ").strip())
    if value.endswith(".whl") and "://" not in value:
        return os.path.abspath(os.path.expanduser(value))
    return value


def fingerprint(extra: str, folder: str, kind: str) -> str:
    """Hash all that the environment depends on: files, extra, kind of Python, places, torch.

    Not the machine's driver: another one makes no set-up necessary, and machines that share a
    folder may differ in it.
    """
    parts = [extra.encode(), kind.encode(), os.fsencode(ROOT)]
    parts.append(os.fsencode(os.path.realpath(folder)))
    for name in MADE_FROM:
        with open(os.path.join(ROOT, name), "rb") as file:
            parts.append(file.read())
    torch = (*torch_asked(folder), torch_kept(folder)[2])
    if any(torch):  # environments from before there was a choice have none
        parts.extend(map(os.fsencode, torch))
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
