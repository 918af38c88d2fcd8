"""`galamp attach`: show a running run on any terminal, any number of times.

    RUN/control --snapshots--> the same display and keys as those of `galamp run`
                               --once: one frame, one JSON object or one picture, and no keys

Ctrl-C and q leave the run running.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, cast

from galamp.core.errors import EXIT_OK, UserError
from galamp.core.leaving import interrupted_by
from galamp.storage.links import followed
from galamp.tools.figures import add_figure_flags, figure_file

if TYPE_CHECKING:
    from typing import TextIO

    from galamp.telemetry.display.dashboard import Display
    from galamp.telemetry.display.streams import SafeStream
    from galamp.telemetry.snapshot import Snapshot

ANSWER_TIMEOUT_S = 60.0
"""Longest silence of a running run: while it is stopped (Ctrl-Z), or between two attempts."""
RECONNECT_S = 0.3
RUNS = Path("runs")
"""Where runs are looked for if none is named."""
PICTURES = ("svg",)
"""What a picture of a frame can be."""
ONCE_SIZE = (120, 40)
"""Columns and lines of one frame where there is no terminal."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp attach`, and the command."""
    parser.set_defaults(command=attach_command)
    parser.add_argument(
        "run",
        metavar="RUN",
        type=followed,
        nargs="?",
        help=f"folder of a running run (default: the one that runs in {RUNS}/)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print one frame to standard output, and leave"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --once: as JSON, with all figures"
    )
    add_figure_flags(parser, "with --once: the frame as a picture", short="-o", formats=PICTURES)


def attach_command(args: argparse.Namespace) -> int:
    """`galamp attach`."""
    from galamp.telemetry.display.streams import print_safely

    if args.json and not args.once:
        raise UserError("--json: one frame as JSON; add --once")
    if args.figure is not None and not args.once:
        raise UserError("--figure: one frame as a picture; add --once")
    picture = figure_file(args, PICTURES)
    run = args.run or the_running_run(RUNS)
    if picture is not None:
        picture.write(_picture(_one_snapshot(run)))
    if args.once:
        if picture is None or args.json:
            _print_once(run, args.json)
        return EXIT_OK
    try:
        with interrupted_by(signal.SIGTERM, signal.SIGQUIT):
            message = _show_until_end(run)
    except KeyboardInterrupt:
        message = f"detached, training goes on; look again: galamp attach {quote(str(run))}\n"
    print_safely(message, sys.stderr)
    return EXIT_OK


def the_running_run(runs: Path) -> Path:
    """Return the folder of the one run in `runs` that is running.

    Raises:
        UserError: there is none, or there are several.
    """
    found = list(_running(runs))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no run is running in {runs}/: give the folder of one, galamp attach RUN")
    names = ", ".join(map(str, found))
    raise UserError(f"{len(found)} runs are running: give one of {names}")


def _running(runs: Path) -> Iterator[Path]:
    """Yield the folders in `runs` whose run accepts connections."""
    from galamp.cli.control_client import ControlClient, NoAnswerError
    from galamp.training.control.framing import CONTROL

    try:
        folders = sorted(runs.iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.is_symlink() or not _is_socket(folder / CONTROL):
            continue
        try:
            with ControlClient(folder):
                yield folder
        except NoAnswerError:
            yield folder
        except UserError:
            continue  # what a killed run has left


def _is_socket(path: Path) -> bool:
    """Return whether a path is a socket; what may not be looked at, as another user's, is none."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _print_once(run: Path, as_json: bool) -> None:
    """Print one frame, or the snapshot as JSON."""
    from rich.console import Console

    from galamp.telemetry.display.render import render
    from galamp.training.control.snapshot_json import as_json as values_of

    snapshot = _one_snapshot(run)
    if as_json:
        sys.stdout.write(json.dumps(values_of(snapshot)) + "\n")
        return
    size = shutil.get_terminal_size(ONCE_SIZE)
    width, height = size if sys.stdout.isatty() else ONCE_SIZE
    console = Console(file=sys.stdout, width=width)
    for line in render(snapshot, width=width, height=height - 1):
        console.print(line, no_wrap=True, crop=True, highlight=False, markup=False)


def _picture(snapshot: Snapshot) -> bytes:
    """Return one frame as SVG."""
    from galamp.telemetry.display.picture import svg_of
    from galamp.telemetry.display.render import render

    width, height = ONCE_SIZE
    lines = render(snapshot, width=width, height=height - 1)
    return svg_of(lines, width=width, title="galamp attach")


def _one_snapshot(run: Path) -> Snapshot:
    """Return the next snapshot of a run.

    Raises:
        UserError: it does not run, or ends before one.
    """
    from galamp.cli.control_client import ControlClient
    from galamp.training.control.snapshot_json import snapshot_from

    with ControlClient(run) as client:
        client.send({"want": "watch"})
        for answer in client.messages(ANSWER_TIMEOUT_S):
            if "snapshot" in answer:
                return snapshot_from(answer["snapshot"])
    raise UserError(f"{run}: the run has ended; see galamp show {quote(str(run))}")


def _show_until_end(run: Path) -> str:
    """Show the run until it ends; returns its exit message."""
    from galamp.storage.run_status import NotRunningError
    from galamp.telemetry.display.dashboard import make_display
    from galamp.telemetry.display.streams import SafeStream

    screen, seen = SafeStream(sys.stderr), False
    with make_display(False, cast("TextIO", screen)) as display:
        try:
            while not _watch(run, display, screen):
                seen = True
                time.sleep(RECONNECT_S)
        except NotRunningError as error:
            if not seen:
                raise
            return f"galamp: {error}\n"
    return _exit_message(run)


def _watch(run: Path, display: Display, screen: SafeStream) -> bool:
    """Show the snapshots of one connection; returns whether the run has ended.

    A run drops the connection of a process that was stopped for a while: then connect again.
    """
    from galamp.cli.control_client import ControlClient
    from galamp.training.control.snapshot_json import snapshot_from

    with ControlClient(run) as client:
        shows_game = False

        def beside() -> None:
            nonlocal shows_game
            display.poll()
            if display.wants_game != shows_game:
                shows_game = display.wants_game
                client.send({"want": "game", "show": shows_game})

        client.send({"want": "watch"})
        for answer in client.messages(ANSWER_TIMEOUT_S, beside):
            if "ended" in answer or screen.lost:
                return True
            display.update(snapshot_from(answer.get("snapshot")))
            beside()
    return False


def _exit_message(run: Path) -> str:
    from galamp.core.sanitize import clean
    from galamp.storage.own_code import own_code_flags
    from galamp.storage.run_status import summary_of
    from galamp.telemetry.display.exit_message import exit_message
    from galamp.tools.run_folders.record import config_of

    summary = summary_of(run)
    if summary is None:
        return ""
    failure = summary.get("failure")
    message = f"galamp: {clean(str(failure))}\n" if failure else ""
    return message + exit_message(summary, *own_code_flags(config_of(run)))
