"""`galamp record`: play with a trained agent, and write what it sees and weighs as a video.

    arguments --load--> Agent, FilmedEnvironment --moments--> Overlay --paced--> VideoFile

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.core.arguments import add_flags, settings_from
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, UserError
from galamp.core.leaving import leaving_on_signals
from galamp.core.sanitize import clean
from galamp.tools.play.config import PlayConfig

PROGRESS_EVERY_S = 0.5

if TYPE_CHECKING:
    from galamp.telemetry.display.progress_line import ProgressLine
    from galamp.tools.play.game import Moment


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp record`, and the command."""
    parser.set_defaults(command=record_command)
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", type=Path, help="run folder, or one of its checkpoints"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="the video: a name in .mp4 or .gif"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let -o replace a file that exists"
    )
    parser.add_argument(
        "--fps",
        metavar="X",
        type=float,
        help="frames per second of the video, which plays at the game's own pace (default: all of "
        "the game's: 60 of an Atari, every frame of the emulator; of others one per agent step; "
        "30 in a .gif at most); a .gif can have 50",
    )
    add_flags(parser, PlayConfig)


def record_command(args: argparse.Namespace) -> int:
    """`galamp record`."""
    config = settings_from(args, PlayConfig)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with leaving_on_signals():
            return _record(args, config)
    except KeyboardInterrupt:
        sys.stderr.write("galamp: interrupted; nothing written\n")
        return EXIT_SIGINT


def _record(args: argparse.Namespace, config: PlayConfig) -> int:
    from galamp.environments.base import closing_quietly
    from galamp.telemetry.display.progress_line import ProgressLine
    from galamp.telemetry.display.streams import STARTING, announce, print_safely
    from galamp.tools.play.game import Tally, decided, moments, paced
    from galamp.tools.play.loading import load
    from galamp.tools.play.overlay import Overlay
    from galamp.tools.play.video import MAX_GIF_FPS, USUAL_GIF_FPS, video_file

    file = video_file(args.output, overwrite=args.overwrite)
    announce(STARTING, sys.stderr)
    agent, filmed = load(args.path, config)
    with closing_quietly(filmed), ProgressLine(sys.stderr) as line:
        most, usual = (MAX_GIF_FPS, USUAL_GIF_FPS) if file.is_gif else (filmed.fps, filmed.fps)
        fps = _fps(args.fps, filmed.fps, most, usual)
        names = filmed.environment.spec.action_meanings
        game = moments(
            filmed, decided(agent, names, config.greedy), config.episodes, config.max_steps
        )
        tally = Tally()
        played = _with_progress(tally.counted(game), line)
        first = next(played)
        overlay = Overlay(first.frames[0], names)
        shown = paced(itertools.chain([first], played), fps / filmed.fps, merges=filmed.flickers)
        written = file.write((overlay.drawn(*each) for each in shown), fps)
    for number, score in enumerate(tally.scores, 1):
        print_safely(f"episode {number}: score {score:g}\n", sys.stdout)
    if tally.is_cut or len(tally.scores) < config.episodes:
        print_safely(f"cut after {config.max_steps:,} agent steps (--max-steps)\n", sys.stderr)
    print_safely(
        f"written: {clean(str(file.path))}, {written.frames:,} frames of {overlay.width} x "
        f"{overlay.height}, {written.frames / fps:.1f} s at {fps:g} a second, {written.codec}\n",
        sys.stderr,
    )
    return EXIT_OK


def _with_progress(game: Iterable[Moment], line: ProgressLine) -> Iterator[Moment]:
    """Yield all moments; show progress on a line."""
    told_s = time.monotonic()
    for moment in game:
        if time.monotonic() - told_s > PROGRESS_EVERY_S:
            told_s = time.monotonic()
            line.show(
                f"recording: episode {moment.episode}, step {moment.step:,}, score {moment.score:g}"
            )
        yield moment


def _fps(asked: float | None, own: float, most: float, usual: float) -> float:
    """Return the frames per second of the video.

    Args:
        asked: by the user; None: what is usual.
        own: frames per second of the game.
        most: what the format can have.
        usual: of the format.

    Raises:
        UserError: there are not so many.
    """
    if asked is None:
        return min(own, usual)
    if not 0.1 <= asked <= min(own, most):
        whose = "the game has" if own <= most else "a .gif can have"
        raise UserError(
            f"--fps {asked:g}: expected 0.1 to {min(own, most):g}, the frames that {whose}"
        )
    return asked
