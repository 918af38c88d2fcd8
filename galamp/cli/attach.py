"""`galamp attach`: show a running run, from any terminal, as often as one likes.

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
"""Longest silence of a run that lives: when it is stopped, or between two starts."""
CALL_AGAIN_S = 0.3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp attach`, and the command."""
    parser.set_defaults(command=attach_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="folder of a running run")


def attach_command(options: argparse.Namespace) -> int:
    """`galamp attach`."""
    from galamp.telemetry.display.streams import tell

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so the cursor comes back
    try:
        said = _look_on(options.run)
    except KeyboardInterrupt:
        said = f"detached, training goes on; look again: galamp attach {options.run}\n"
    tell(said, sys.stderr)
    return EXIT_OK


def _look_on(run: Path) -> str:
    """Show the run until it ends; returns the last words on it."""
    from galamp.storage.run_status import NotRunningError
    from galamp.telemetry.display.dashboard import make_display
    from galamp.telemetry.display.streams import SafeStream

    screen, seen = SafeStream(sys.stderr), False
    with make_display(False, cast("TextIO", screen)) as display:
        try:
            while not _watch(run, display, screen):
                seen = True
                time.sleep(CALL_AGAIN_S)
        except NotRunningError as error:
            if not seen:
                raise
            return f"galamp: {error}\n"
    return _last_words(run)


def _watch(run: Path, display: Display, screen: SafeStream) -> bool:
    """Show what one connection brings; returns whether there is no more to see.

    Where this process was stopped for a while the run has given it up: then call again.
    """
    from galamp.cli.control_client import ControlClient
    from galamp.training.control.snapshot_json import snapshot_from

    with ControlClient(run) as call:
        call.ask({"want": "watch"})
        for message in call.messages(ANSWER_TIMEOUT_S):
            if "ended" in message or screen.lost:
                return True
            display.update(snapshot_from(message.get("snapshot")))
    return False


def _last_words(run: Path) -> str:
    from galamp.core.sanitize import clean
    from galamp.storage.run_status import summary_of
    from galamp.telemetry.display.closing import closing_line

    summary = summary_of(run)
    if summary is None:
        return ""
    failure = summary.get("failure")
    said = f"galamp: {clean(str(failure))}\n" if failure else ""
    return said + closing_line(summary)
