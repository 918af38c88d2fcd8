"""`galamp show`: all that is known of a run, from its files, while it runs and afterwards.

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from galamp.core.arguments import whole_number
from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed
from galamp.tools.run_folders.ls_command import width_of_terminal

EVENTS_SHOWN = 12
MAX_EVENTS = 100_000
WIDTH = 100
"""Columns where the output is no terminal, and at most where it is."""
MIN_WIDTH = 40


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp show`, and the command."""
    parser.description = "Show all that is known of a run: now, or how it ended."
    parser.set_defaults(command=show_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="run folder")
    parser.add_argument(
        "--events", metavar="N", type=whole_number(0, MAX_EVENTS), default=EVENTS_SHOWN,
        help=f"newest events to show (default: {EVENTS_SHOWN})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def show_command(args: argparse.Namespace) -> int:
    """`galamp show`."""
    from galamp.tools.run_folders.record import is_run, read_record
    from galamp.tools.run_folders.report import as_json

    if not is_run(args.run):
        raise UserError(f"{args.run}: not a run folder (it has no config.json)")
    if args.json:
        print(json.dumps(as_json(read_record(args.run), args.events), indent=1))
    else:
        _show(args.run, args.events)
    return EXIT_OK


def _show(run: Path, events: int) -> None:
    from rich.console import Console
    from rich.text import Text

    from galamp.tools.run_folders.picture import picture
    from galamp.tools.run_folders.record import read_record
    from galamp.tools.run_folders.report import sections

    record = read_record(run)
    width = max(MIN_WIDTH, min(width_of_terminal() or WIDTH, WIDTH))
    lines = picture(record, width)
    for title, content in sections(record, events, width - 2):
        lines += [Text(), Text(title, "bold"), *(Text(f"  {line}") for line in content)]
    console = Console(file=sys.stdout, width=width, highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
