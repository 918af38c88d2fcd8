"""`galamp scale`: change the number of learners of a running run.

    --learners N --> RUN/control --> the run saves, and continues with N learners --> duration

The command may be interrupted: once the run has accepted the request, it completes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from galamp.core.arguments import settings_from
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, GalampError
from galamp.core.sanitize import one_line
from galamp.core.settings import option
from galamp.storage.links import followed

if TYPE_CHECKING:
    from galamp.cli.control_client import ControlClient

ANSWER_TIMEOUT_S = 180.0
"""Longest wait for the change: saving, and learners that start on a busy machine."""


@dataclass(frozen=True)
class ScaleConfig:
    """The request."""

    learners: int = option(1, "actor-learners to go on with", low=1, high=1024)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp scale`, and the command."""
    parser.set_defaults(command=scale_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="folder of a running run")
    parser.add_argument(
        "--learners", metavar="N", required=True, help="actor-learners to go on with"
    )


def scale_command(args: argparse.Namespace) -> int:
    """`galamp scale`."""
    from galamp.cli.control_client import ControlClient
    from galamp.telemetry.display.streams import print_safely

    learners = settings_from(args, ScaleConfig).learners
    with ControlClient(args.run) as client:
        client.send({"want": "scale", "learners": learners})
        try:
            for message in answers(client, args.run, learners, ANSWER_TIMEOUT_S):
                print(_result_text(message))
                return EXIT_OK
        except KeyboardInterrupt:
            print_safely(f"galamp: {_pending_text(args.run, learners)}\n", sys.stderr)
            return EXIT_SIGINT
    raise GalampError(f"{args.run}: ended before it had {learners} learners")


def answers(
    client: ControlClient, run: Path, learners: int, timeout_s: float
) -> Iterator[dict[str, Any]]:
    """Yield the run's messages after the one that accepts the request.

    `timeout_s` is the longest wait for each.

    Raises:
        GalampError: no further message came in time.
        NoAnswerError: no message came at all.
    """
    from galamp.cli.control_client import NoAnswerError

    accepted = False
    try:
        for message in client.messages(timeout_s):
            if message != {"taken": learners}:
                yield message
            accepted = True
    except NoAnswerError as error:
        if not accepted:
            raise NoAnswerError(f"{error} {_pending_text(run, learners)}") from None
        raise GalampError(f"after {timeout_s:.0f} s: {_pending_text(run, learners)}") from None


def _pending_text(run: Path, learners: int) -> str:
    return one_line(
        f"{run} was asked for {learners} learner{'s' if learners != 1 else ''}, and goes on to "
        f"that by itself: look on by galamp attach {quote(str(run))}"
    )


def _result_text(message: dict[str, Any]) -> str:
    match message:
        case {"kept": int(learners)}:
            return f"has {learners} learner{'s' if learners != 1 else ''} already"
        case {"scaled": {"learners": int(now), "former": int(before), "took_s": float(took_s)}}:
            return f"learners: from {before} to {now} in {took_s:.1f} s"
    raise GalampError("what answers is no run: expected to hear of learners")
