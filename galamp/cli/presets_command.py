"""`galamp presets`: the presets of `--preset`, what each is for, and what was reached with it."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator

from galamp.cli.presets import PRESETS, Preset
from galamp.core.errors import EXIT_OK

WIDTH = 79


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command; it has no options."""
    parser.description = "List the presets: galamp run --preset NAME; flags change its settings."
    parser.set_defaults(command=presets_command)


def presets_command(args: argparse.Namespace) -> int:
    """`galamp presets`."""
    for name, known in PRESETS.items():
        sys.stdout.writelines(f"{line}\n" for line in lines_of(name, known))
    sys.stdout.write("\nAll settings of one: galamp config --preset NAME\n")
    return EXIT_OK


def lines_of(name: str, known: Preset) -> Iterator[str]:
    """Yield what is to be said of a preset, in lines of at most `WIDTH` characters."""
    indent = max(map(len, PRESETS)) + 2
    room = WIDTH - indent
    first, *more = textwrap.wrap(f"{known.algorithm}. {known.source}", room, break_on_hyphens=False)
    yield f"{name:<{indent}}{first}"
    seen = textwrap.wrap(f"seen: {known.result}", room) if known.result else []
    yield from (" " * indent + line for line in (*more, *seen))
