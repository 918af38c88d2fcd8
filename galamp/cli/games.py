"""`galamp games`: the Atari games that can be played; on a terminal with actions and known scores.

In a pipe a name per line.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from galamp.core.errors import EXIT_OK

NAME, NUMBER = 18, 8
"""Widths of columns, in characters."""
GAP = "  "


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command; it has no options."""
    parser.description = (
        "List the Atari games: on a terminal with the number of their actions, and the published "
        "scores of a random player and of a human; in a pipe a name per line."
    )
    parser.set_defaults(command=games_command)


def games_command(args: argparse.Namespace) -> int:
    """`galamp games`."""
    from galamp.environments.names import list_games

    games = list_games()
    if sys.stdout.isatty():
        games = [*in_columns(games, shutil.get_terminal_size().columns), *notes()]
    print("\n".join(games))
    return EXIT_OK


def in_columns(games: Sequence[str], width: int) -> list[str]:
    """Return lines of at most `width` characters with name, actions and scores of each game."""
    heading = _cells("game", "act", "random", "human")
    blocks = max(1, (width + len(GAP)) // (len(heading) + len(GAP)))
    rows = -(-len(games) // blocks)
    cells = [described(game) for game in games]
    lines = (GAP.join(cells[row::rows]) for row in range(rows))
    return [GAP.join([heading] * min(blocks, len(games))), *lines]


def described(game: str) -> str:
    """Return a game's name, its number of actions and its known scores."""
    from galamp.environments.minimal_actions import actions_of
    from galamp.environments.names import ATARI, rom_name
    from galamp.tools.evaluation.references import REFERENCES

    rom = rom_name(f"{ATARI}{game}-v5")
    known = REFERENCES.get(rom)
    scores = ("-", "-") if known is None else (_score(known.random), _score(known.human))
    return _cells(game, str(actions_of(rom)), *scores)


def notes() -> list[str]:
    """Return what the columns are."""
    from galamp.tools.evaluation.references import SOURCE

    return [
        "",
        "act: actions that do something; random, human: published scores",
        f"({SOURCE}).",
        "Train: galamp run --game NAME",
    ]


def _cells(name: str, actions: str, random: str, human: str) -> str:
    return f"{name:<{NAME}}{actions:>3}{random:>{NUMBER}}{human:>{NUMBER}}"


def _score(score: float) -> str:
    return f"{score:.1f}" if abs(score) < 100 else f"{score:,.0f}"
