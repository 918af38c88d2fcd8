"""CUDA's Multi-Process Service (MPS): detects its daemon. With MPS, processes share one context.

NVIDIA's manual, "Multi-Process Service": when CUDA starts, a program contacts the control daemon
through a pipe or socket named `control`, and continues without MPS if there is no answer. So galamp
sets nothing and starts no daemon; it only reports that one runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

VARIABLE, USUAL = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"
CONTROL = "control"


def mps_folder(environment: Mapping[str, str] = os.environ, usual: str = USUAL) -> Path | None:
    """Return the folder of the daemon's pipes; None if there is no daemon."""
    folder = Path(environment.get(VARIABLE) or usual)
    try:
        kind = (folder / CONTROL).lstat().st_mode
    except OSError:
        return None
    return folder if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else None


def mps_in_words(folder: Path) -> str:
    """Return the message of a run with an MPS daemon."""
    return (
        f"CUDA MPS is in use (its daemon's pipes are in {folder}): learners of one GPU compute at "
        "the same time, and one that is killed, or that a fault of CUDA ends, may take along, or "
        "hang, all others on that GPU"
    )
