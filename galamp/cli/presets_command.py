"""`galamp presets`: the presets of `--preset`, what each is for, and what was reached with it."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator

from galamp.cli.presets import PRESETS, Preset, preset, preset_values
from galamp.core.errors import EXIT_OK

WIDTH = 79
NOT_MEASURED = "not measured here"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp presets`, and the command."""
    parser.description = "List the presets: galamp run --preset NAME; flags change its settings."
    parser.set_defaults(command=presets_command)
    parser.add_argument("preset", metavar="NAME", nargs="?", help="show what this one sets")


def presets_command(args: argparse.Namespace) -> int:
    """`galamp presets`."""
    if args.preset is not None:
        chosen = preset(args.preset)
        sys.stdout.writelines(f"{line}\n" for line in lines_of(args.preset, chosen))
        sys.stdout.write(f"\n{_as_flags(args.preset)}\n")
        return EXIT_OK
    for name, known in PRESETS.items():
        sys.stdout.writelines(f"{line}\n" for line in lines_of(name, known))
    sys.stdout.write("\nWhat one sets: galamp presets NAME\n")
    return EXIT_OK


def _as_flags(name: str) -> str:
    """Return what a preset stands for, as a command with a flag in each line."""
    from galamp.core.algorithm_config import algorithm_config
    from galamp.core.config import from_settings
    from galamp.core.settings import settings
    from galamp.tools.sweep.planned import words_of

    values = preset_values(name)
    algorithm = algorithm_config(values["algorithm", "algorithm"])
    known = settings(from_settings(values, type(algorithm)))
    given = [
        word
        for setting in known
        if (key := (setting.section, setting.name)) in values
        for word in words_of(setting, values[key])
    ]
    return f"galamp run --preset {name} is\n  " + " \\\n  ".join(["galamp run", *given])


def lines_of(name: str, known: Preset) -> Iterator[str]:
    """Yield what is to be said of a preset, in lines of at most `WIDTH` characters."""
    indent = max(map(len, PRESETS)) + 2
    room = WIDTH - indent
    first, *more = textwrap.wrap(f"{known.algorithm}. {known.source}", room, break_on_hyphens=False)
    yield f"{name:<{indent}}{first}"
    result = f"seen: {known.result}" if known.result else NOT_MEASURED
    seen = textwrap.wrap(result, room)
    yield from (" " * indent + line for line in (*more, *seen))
