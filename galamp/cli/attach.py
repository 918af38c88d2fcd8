"""`galamp attach`: show a running run on any terminal, any number of times.

    RUN/control --snapshots--> the same display as that of `galamp run`

Ctrl-C leaves the run running.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from galamp.core.errors import EXIT_OK
from galamp.storage.links import followed

if TYPE_CHECKING:
    from typing import TextIO

    from galamp.telemetry.display.dashboard import Display
    from galamp.telemetry.display.streams import SafeStream

ANSWER_TIMEOUT_S = 60.0
"""Longest silence of a running run: while it is stopped (Ctrl-Z), or between two attempts."""
RECONNECT_S = 0.3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp attach`, and the command."""
    parser.set_defaults(command=attach_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="folder of a running run")


def attach_command(options: argparse.Namespace) -> int:
    """`galamp attach`."""
    from galamp.telemetry.display.streams import print_safely

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cursor is restored
    try:
        message = _show_until_end(options.run)
    except KeyboardInterrupt:
        message = f"detached, training goes on; look again: galamp attach {options.run}\n"
    print_safely(message, sys.stderr)
    return EXIT_OK


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
        client.send({"want": "watch"})
        for answer in client.messages(ANSWER_TIMEOUT_S):
            if "ended" in answer or screen.lost:
                return True
            display.update(snapshot_from(answer.get("snapshot")))
    return False


def _exit_message(run: Path) -> str:
    from galamp.core.sanitize import clean
    from galamp.storage.run_status import summary_of
    from galamp.telemetry.display.exit_message import exit_message

    summary = summary_of(run)
    if summary is None:
        return ""
    failure = summary.get("failure")
    message = f"galamp: {clean(str(failure))}\n" if failure else ""
    return message + exit_message(summary)
