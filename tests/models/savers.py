"""Saves checkpoints in forked children, each killed at a point of its own; run as a script.

    python -m tests.models.savers TEMPLATE FOLDER ORDER...  -->  FOLDER/ORDER/checkpoints, killed

A script of one thread, so that it may fork: each child has the libraries loaded already.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from galamp.core import failpoints
from galamp.storage import checkpoint as checkpoints


def save_and_point(folder: Path, template: checkpoints.Checkpoint, steps: int) -> None:
    """Save as the supervisor does when the newest is also the best."""
    progress = template.progress | {"agent_steps": steps}
    path = checkpoints.save(folder, dataclasses.replace(template, progress=progress))
    checkpoints.point(folder, "latest", path)
    checkpoints.point(folder, "best", path)


def save_twice(folder: Path, template: checkpoints.Checkpoint, order: str) -> None:
    save_and_point(folder, template, 1)
    failpoints.arm(order)
    save_and_point(folder, template, 2)


def main() -> None:
    template, folder = checkpoints.load(Path(sys.argv[1])), Path(sys.argv[2])
    for order in sys.argv[3:]:
        child = os.fork()
        if child == 0:
            (folder / order).mkdir()
            save_twice(folder / order / "checkpoints", template, order)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, order


if __name__ == "__main__":
    main()
