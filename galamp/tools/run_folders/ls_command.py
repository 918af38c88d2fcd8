"""`galamp ls`: the runs in a folder, the newest first.

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from galamp.core.errors import EXIT_OK
from galamp.core.sanitize import clean
from galamp.storage.links import followed

RUNS = "runs"
"""Folder of runs in the working directory."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp ls`, and the command."""
    parser.description = "List runs, the newest first."
    parser.set_defaults(command=ls_command)
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=followed, help=f"folder of runs (default: {RUNS})"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def ls_command(args: argparse.Namespace) -> int:
    """`galamp ls`."""
    from galamp.tools.run_folders.listing import as_json, runs_in, table

    folder = args.folder or Path(RUNS)
    # Without a name, nothing is wrong where no run was begun yet.
    records = runs_in(folder) if args.folder or os.path.isdir(folder) else []
    if args.json:
        print(json.dumps([as_json(record) for record in records], indent=1))
    elif records:
        print("\n".join(table(records, width_of_terminal())))
    else:
        print(f"no runs in {clean(str(folder))}; begin one: galamp run --game Breakout")
    return EXIT_OK


def width_of_terminal() -> int | None:
    """Return the columns of the terminal on standard output; None if it is no terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None
