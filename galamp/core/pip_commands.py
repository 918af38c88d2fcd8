"""pip commands: what a message tells to run for a package that is missing.

    extra --install_extra--> command line for the shell

Any process. Each is for the Python that runs galamp: the `pip` on the path may be another one's.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def pip_install(*words: str) -> str:
    """Return the command that installs something, as it is typed into a shell.

    Args:
        words: requirements and options of `pip install`.
    """
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *words])


def install_extra(extra: str) -> str:
    """Return the command that installs an extra of galamp.

    Where galamp runs from a folder and was never installed, or was before it had this extra, the
    folder is named: pip would look for a package `galamp` elsewhere, or install nothing.
    """
    if extra in _extras():
        return pip_install(f"galamp[{extra}]")
    return pip_install("-e", f"{Path(__file__).resolve().parents[2]}[{extra}]")


def _extras() -> list[str]:
    """Return the extras of galamp as it is installed; none where it is not."""
    from importlib import metadata  # slow to load, and needed only where something is missing

    try:
        return metadata.metadata("galamp").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
