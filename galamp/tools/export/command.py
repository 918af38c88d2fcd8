"""`galamp export`: write a trained agent for other programs, once it is known to act the same.

    arguments --> ExportConfig --export.export--> file, and its description as JSON beside it

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from galamp.core.arguments import add_flags, settings_from
from galamp.core.errors import EXIT_OK
from galamp.core.leaving import leaving_on_signals
from galamp.telemetry.display.streams import STARTING, announce, print_safely
from galamp.tools.export.config import ExportConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp export`, and the command."""
    parser.set_defaults(command=export_command)
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", type=Path, help="run folder, or one of its checkpoints"
    )
    add_flags(parser, ExportConfig)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write; FILE.json describes it (default: RUN/export-<checkpoint>-<whose> and "
        "the format's ending)",
    )
    parser.add_argument("--overwrite", action="store_true", help="let it replace files that exist")


def export_command(args: argparse.Namespace) -> int:
    """`galamp export`."""
    config = settings_from(args, ExportConfig)
    announce(STARTING, sys.stderr)
    from galamp.tools.export.export import export

    with leaving_on_signals():
        exported = export(args.path, config, args.output, overwrite=args.overwrite)
    print_safely(f"{exported.text}\n", sys.stdout)
    for path in (exported.path, exported.description):
        print_safely(f"written: {path}\n", sys.stderr)
    return EXIT_OK
