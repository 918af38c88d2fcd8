"""`galamp play`: watch a trained agent in the terminal or a window, or play oneself.

    arguments --load--> Agent or Keyboard, FilmedEnvironment --moments--> Player --> Screen

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.core.arguments import add_flags, settings_from
from galamp.core.errors import EXIT_OK, EXIT_SIGINT
from galamp.tools.play.config import PlayConfig

if TYPE_CHECKING:
    from galamp.environments.screens import FilmedEnvironment
    from galamp.tools.evaluation.agent import Agent
    from galamp.tools.play.game import Decide, Tally
    from galamp.tools.play.show import Screen
    from galamp.tools.play.terminal import Terminal

KEYS = "q quit   space pause   + - speed"
KEYS_OF_A_PERSON = "q quit   p pause   + - speed"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp play`, and the command."""
    parser.set_defaults(command=play_command)
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", type=Path, help="run folder, or one of its checkpoints"
    )
    parser.add_argument(
        "--human",
        action="store_true",
        help="play yourself, under the protocol of the run: arrows and space in Atari games, "
        "elsewhere left and right or the number of an action; terminals do not tell when a key is "
        "released: it counts as held for 0.3 s",
    )
    parser.add_argument(
        "--window", action="store_true", help="show it in a window, where there is a display"
    )
    add_flags(parser, PlayConfig)


def play_command(args: argparse.Namespace) -> int:
    """`galamp play`."""
    config = settings_from(args, PlayConfig)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from galamp.tools.play.terminal import Closed

    try:
        _play(args, config)
    except KeyboardInterrupt:
        return EXIT_SIGINT
    except Closed as closed:
        return closed.exit_code
    return EXIT_OK


def _play(args: argparse.Namespace, config: PlayConfig) -> None:
    """Show the games; print their scores when the screen is restored."""
    from galamp.environments.base import closing_quietly
    from galamp.telemetry.display.streams import STARTING, announce
    from galamp.tools.play.game import Tally, moments
    from galamp.tools.play.loading import load
    from galamp.tools.play.show import Player, Quit
    from galamp.tools.play.terminal import Terminal
    from galamp.tools.play.window import check_display

    # What cannot be shown is refused before anything is loaded.
    if args.window:
        check_display()
    terminal = None if args.window else Terminal()
    announce(STARTING, sys.stderr)
    agent, filmed = load(args.path, config)
    tally = Tally()
    with closing_quietly(filmed):
        decide, press, keys = _decider(agent, filmed, args, config)
        try:
            with _screen(terminal, filmed, keys) as screen:
                player = Player(screen, filmed.fps, merges=filmed.flickers, press=press)
                game = moments(filmed, decide, config.episodes, config.max_steps)
                player.play(tally.counted(game))
        except Quit:
            pass
        finally:
            _print_tally(tally)


def _decider(
    agent: Agent, filmed: FilmedEnvironment, args: argparse.Namespace, config: PlayConfig
) -> tuple[Decide, Callable[[str], None] | None, str]:
    """Return who decides, what takes a person's keys, and what the keys do.

    Raises:
        UserError: a person cannot choose the actions.
    """
    from galamp.tools.play.game import decided
    from galamp.tools.play.keyboard import Keyboard

    spec = filmed.environment.spec
    if not args.human:
        return decided(agent, spec.action_meanings, config.greedy), None, KEYS
    keyboard = Keyboard(spec)
    return keyboard.decide, keyboard.press, f"{keyboard.help}   {KEYS_OF_A_PERSON}"


@contextmanager
def _screen(terminal: Terminal | None, filmed: FilmedEnvironment, keys: str) -> Iterator[Screen]:
    """Show a game on the terminal, or in a window where there is none."""
    from galamp.tools.play.screen import OnTerminal
    from galamp.tools.play.window import Window

    spec = filmed.environment.spec
    if terminal is None:
        window = Window(f"{spec.env_id}   {keys}", spec.action_meanings)
        try:
            yield window
        finally:
            window.close()
        return
    with terminal:
        yield OnTerminal(terminal, spec.env_id, keys)


def _print_tally(tally: Tally) -> None:
    """Print the score of each game; one that was not played to its end is marked."""
    from galamp.telemetry.display.streams import print_safely

    for number, score in enumerate(tally.scores, 1):
        cut = " (not played to its end)" if number == len(tally.scores) and tally.is_cut else ""
        print_safely(f"episode {number}: score {score:g}{cut}\n", sys.stdout)
