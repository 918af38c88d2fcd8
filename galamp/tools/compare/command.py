"""`galamp compare`: what differs between runs, in settings, scores, speed, and how surely.

    RUNs --load--> Run --comparison.compare--> tables, or JSON

Run folders are only read. Only light modules are imported at the top, since the command line
imports this one for every command.
"""

from __future__ import annotations

import argparse
import json
import math
import sys

from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed

MAX_RUNS = 500


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp compare`, and the command."""
    parser.set_defaults(command=compare_command)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=followed,
        help="run folders, finished or running, at least two; runs that differ in seed and machine "
        "only are a group, the first run's is what others are compared with",
    )
    parser.add_argument(
        "--score",
        metavar="X",
        type=float,
        help="tell how many runs reach the score X, and when half of all do, too",
    )
    parser.add_argument(
        "--ignore",
        metavar="SETTING",
        action="append",
        default=[],
        help="a setting that makes no groups, such as total-steps; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def compare_command(args: argparse.Namespace) -> int:
    """`galamp compare`."""
    if args.score is not None and not math.isfinite(args.score):
        raise UserError(f"--score {args.score}: expected a number")
    if len(args.runs) > MAX_RUNS:
        raise UserError(f"{len(args.runs)} runs: expected at most {MAX_RUNS}; name fewer")
    from galamp.core.disk import finite
    from galamp.tools.compare.comparison import compare
    from galamp.tools.compare.text_report import show
    from galamp.tools.plot.groups import checked
    from galamp.tools.plot.runs import load

    runs = load(args.runs)
    if len(runs) < 2:
        raise UserError(f"{args.runs[0]}: expected at least two runs; name another")
    result = compare(runs, args.score, checked(args.ignore, runs))
    if args.json:
        print(json.dumps(finite(result)))
    else:
        show(result, sys.stdout)
    return EXIT_OK
