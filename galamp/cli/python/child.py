"""The child of a program that trains: `galamp run`, led by its parent.

    parent --a byte on standard input: end well--> ProgramLink --> Supervisor.finish
    child --{"run_dir": ...}, then the summary, a line of JSON each--> standard output

Runs in the supervisor.
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.telemetry.display.streams import print_safely

if TYPE_CHECKING:
    from galamp.training.supervisor import Supervisor

RUN_DIR = "run_dir"
"""Key of the first line, which tells the run folder."""


class ProgramLink:
    """A callback of the supervisor that ends the run when the program asks for it, or has ended."""

    def __init__(self, parent: int, requests: int) -> None:
        """Watch the process `parent`, and the file descriptor `requests`."""
        self._parent, self._is_told, self._poll = parent, False, select.poll()
        self._poll.register(requests, select.POLLIN)

    def tick(self, supervisor: Supervisor) -> None:
        """Tell the run folder once; end the run if that is asked for."""
        if not self._is_told:
            self._is_told = True
            folder = Path(os.path.abspath(supervisor.recorder.folder.path))
            print_safely(json.dumps({RUN_DIR: str(folder)}) + "\n", sys.stdout)
        if os.getppid() != self._parent or self._poll.poll(0):
            supervisor.finish()


def main(parent: int) -> int:
    """Run the command line of this process for the process `parent`; return the exit code."""
    from galamp.cli import main as command_line
    from galamp.cli import run

    run.CALLBACKS.append(ProgramLink(parent, sys.stdin.fileno()))
    return command_line.main()
