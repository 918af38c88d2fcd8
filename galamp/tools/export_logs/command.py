"""`galamp export-logs`: hand the metrics of a run to TensorBoard or Weights & Biases.

    RUN --timed_rows--> rows --> event files in RUN/tensorboard, or a run at W&B

The run may have ended, or go on; it is only read. Only light modules are imported at the top, since
the command line imports this one for every command.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed
from galamp.telemetry.display.streams import print_safely


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp export-logs`, and the command."""
    parser.description = (
        "Write the metrics of a run, over all of its starts, for other tools. Later starts "
        "supersede what earlier ones had beyond their checkpoint."
    )
    parser.set_defaults(command=export_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="run folder, ended or running")
    parser.add_argument(
        "--tensorboard", action="store_true", help="event files, for tensorboard --logdir"
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="a new run at Weights & Biases; without a key, a folder that wandb sync uploads later",
    )
    parser.add_argument(
        "--wandb-project", metavar="NAME", help="its project (default: that of the run)"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path,
        help="folder for them (default: RUN/tensorboard, RUN/wandb)",
    )  # fmt: skip


def export_command(args: argparse.Namespace) -> int:
    """`galamp export-logs`."""
    from galamp.tools.run_folders.record import is_run

    tracks = args.wandb or args.wandb_project is not None
    if not (args.tensorboard or tracks):
        raise UserError("export-logs: expected --tensorboard, --wandb, or both")
    if not is_run(args.run):
        raise UserError(f"{args.run}: not a run folder (it has no config.json)")
    folder = None if args.output is None else _made(args.output)
    if args.tensorboard:
        from galamp.tools.export_logs.tensorboard import export

        place = folder or args.run / "tensorboard"
        rows = export(args.run, place)
        look = f"tensorboard --logdir {shlex.quote(str(place))}"
        _written(f"{rows:,} rows to {place}; look at them: {look}")
    if tracks:
        from galamp.tools.export_logs.wandb import export as export_to_wandb

        rows, there = export_to_wandb(args.run, folder or args.run, args.wandb_project or "")
        later = "" if "://" in there else f"; upload them: wandb sync {shlex.quote(there)}"
        _written(f"{rows:,} rows to {there}{later}")
    return EXIT_OK


def _made(folder: Path) -> Path:
    """Return the folder, which is made where there is none.

    Raises:
        UserError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"-o {folder}: cannot be a folder: {why}; name another") from None
    return folder


def _written(text: str) -> None:
    print_safely(f"galamp: written: {text}\n", sys.stderr)
