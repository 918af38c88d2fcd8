"""`galamp scale`: give a running run more or fewer learners.

--learners N --> RUN/control --> the run saves, and goes on with N learners --> how long it took
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from galamp.errors import EXIT_OK, GalampError
from galamp.flags import settings_from
from galamp.options import option
from galamp.storage.links import followed

PATIENCE_S = 180.0
"""Longest that a change takes: saving, and learners that start on a busy machine."""


@dataclass(frozen=True)
class ScaleConfig:
    """What to ask for."""

    learners: int = option(1, "actor-learners to go on with", low=1, high=1024)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp scale`, and the command."""
    parser.set_defaults(command=scale_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="folder of a running run")
    parser.add_argument(
        "--learners", metavar="N", required=True, help="actor-learners to go on with"
    )


def scale_command(options: argparse.Namespace) -> int:
    """`galamp scale`."""
    from galamp.remote.call import Call

    learners = settings_from(options, ScaleConfig).learners
    with Call(options.run) as call:
        call.ask({"want": "scale", "learners": learners})
        for message in call.messages(PATIENCE_S):
            print(_said(message))
            return EXIT_OK
    raise GalampError(f"{options.run}: ended before it had {learners} learners")


def _said(message: dict[str, Any]) -> str:
    match message:
        case {"kept": int(learners)}:
            return f"has {learners} learner{'s' if learners != 1 else ''} already"
        case {"scaled": {"learners": int(now), "former": int(before), "took_s": float(took_s)}}:
            return f"learners: from {before} to {now} in {took_s:.1f} s"
    raise GalampError("what answers is no run: expected to hear of learners")
