"""`galamp eval`: play whole games with a trained agent, and report the scores.

    arguments --> EvaluationConfig --evaluation.evaluate--> report --> table or JSON, and a file

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from galamp.core.arguments import add_flags, settings_from
from galamp.core.errors import EXIT_OK, EXIT_SIGINT
from galamp.tools.evaluation.config import EvaluationConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp eval`, and the command."""
    parser.set_defaults(command=eval_command)
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", type=Path, help="run folder, or one of its checkpoints"
    )
    add_flags(parser, EvaluationConfig)


def eval_command(args: argparse.Namespace) -> int:
    """`galamp eval`."""
    config = settings_from(args, EvaluationConfig)
    # torch reads it when it loads: waiting threads would spin on the emulator's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    done = [0]
    try:
        return _evaluate(args.path, config, done)
    except KeyboardInterrupt:
        sys.stderr.write(f"galamp: interrupted after {done[0]} games; nothing written\n")
        return EXIT_SIGINT


def _evaluate(path: Path, config: EvaluationConfig, done: list[int]) -> int:
    """Evaluate, write, show; `done[0]` counts the finished games."""
    from galamp.tools.evaluation.report import evaluate, write
    from galamp.tools.evaluation.table import Progress, show

    report, target = evaluate(path, config, Progress(config.quiet, done))
    try:
        written = write(target, report)
    finally:
        # The result of minutes of work is shown even if the disk refuses it.
        if config.json:
            print(json.dumps(report))
        else:
            show(report, sys.stdout)
    if not config.quiet:
        sys.stderr.write(f"written: {written}\n")
    return EXIT_OK
