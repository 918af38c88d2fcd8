"""`galamp games`: the Atari games that can be played, a name per line."""

from __future__ import annotations

import argparse

from galamp.core.errors import EXIT_OK


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command; it has no options."""
    parser.set_defaults(command=games_command)


def games_command(options: argparse.Namespace) -> int:
    """`galamp games`."""
    from galamp.environments.names import list_games

    print("\n".join(list_games()))
    return EXIT_OK
