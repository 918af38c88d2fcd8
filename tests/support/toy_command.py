"""A command defined outside the package; a line in `COMMANDS` names this module."""

from __future__ import annotations

import argparse
import sys

from galamp.core.errors import EXIT_OK


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command and its options."""
    parser.add_argument("--times", metavar="N", type=int, default=1, help="how often")
    parser.set_defaults(command=greet_command)


def greet_command(args: argparse.Namespace) -> int:
    """`galamp greet`."""
    sys.stdout.write("hello\n" * args.times)
    return EXIT_OK
