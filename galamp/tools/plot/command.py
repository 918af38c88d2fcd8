"""`galamp plot`: draw the score, or another metric, of runs.

    RUNs --load--> Run --charts--> Chart --> the terminal as text, or a file with -o

Run folders are only read. Only light modules are imported at the top, since the command line
imports this one for every command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from galamp.core.errors import EXIT_OK, UserError
from galamp.storage.links import followed
from galamp.tools.figures import add_figure_flags, figure_file

if TYPE_CHECKING:
    from galamp.tools.plot.charts import Chart
    from galamp.tools.plot.runs import Run

AXES = ("steps", "frames", "hours")
BANDS = ("stderr", "bootstrap")
MAX_RUNS = 500


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp plot`, and the command."""
    parser.set_defaults(command=plot_command)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=followed, help="run folders, finished or running"
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        help="metric of metrics.jsonl, such as entropy or charts/SPS; give it several times for "
        "several charts (default: score)",
    )
    parser.add_argument("--x", choices=AXES, default="steps", help="x axis (default: steps)")
    parser.add_argument("--per-learner", action="store_true", help="a thin line per learner, too")
    parser.add_argument(
        "--group",
        action="store_true",
        help="one line per configuration: the mean over its runs, which differ in seed and machine "
        "only, and a band",
    )
    parser.add_argument(
        "--ignore",
        metavar="SETTING",
        action="append",
        default=[],
        help="a setting that --group does not go by, such as total-steps; may be given several "
        "times",
    )
    parser.add_argument(
        "--band",
        choices=BANDS,
        default="stderr",
        help="band of --group: mean ± standard error, or a 95 %% bootstrap interval of the mean "
        "(default: stderr)",
    )
    add_figure_flags(parser, "draw into a file", short="-o")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="draw again every few seconds until all of the runs have ended, or Ctrl-C",
    )


def plot_command(args: argparse.Namespace) -> int:
    """`galamp plot`."""
    _check(args)
    from galamp.tools.plot import follow
    from galamp.tools.plot.runs import load

    file = figure_file(args)
    runs = load(args.runs)
    if args.follow:
        return follow.follow(runs, lambda: charts_of(runs, args), file)
    charts = charts_of(runs, args)
    if not any(chart.lines for chart in charts):
        raise UserError(
            f"{args.runs[0]}: {_nothing(runs)}; --follow waits for it"
            if len(runs) == 1
            else f"{len(runs)} runs: {_nothing(runs)}; --follow waits for it"
        )
    if file is None:
        follow.show(charts)
    else:
        from galamp.tools.plot.figure import draw

        file.write(draw(charts, file.format))
    return EXIT_OK


def charts_of(runs: Sequence[Run], args: argparse.Namespace) -> list[Chart]:
    """Return a chart per metric that is asked for, of what the runs have told so far.

    Raises:
        UserError: there is no such metric, or setting.
    """
    from galamp.tools.plot.charts import chart_of_groups, chart_of_runs, with_references
    from galamp.tools.plot.groups import checked, group
    from galamp.tools.plot.metrics import find

    names = list(dict.fromkeys(name for run in runs for name in run.history.names))
    ignored, charts = checked(args.ignore, runs), []
    for word in args.metric or ["score"]:
        metric = find(word, names)
        if args.group:
            chart = chart_of_groups(group(runs, ignored), metric, args.x, args.band)
        else:
            chart = chart_of_runs(runs, metric, args.x, args.per_learner)
        charts.append(with_references(chart, metric, runs))
    return charts


def _check(args: argparse.Namespace) -> None:
    """Refuse options that contradict one another.

    Raises:
        UserError: some do.
    """
    if args.group and args.per_learner:
        raise UserError("--per-learner: is of single runs; leave out --group")
    if args.band != "stderr" and not args.group:
        raise UserError("--band: goes with --group; give that, too")
    if args.ignore and not args.group:
        raise UserError("--ignore: goes with --group; give that, too")
    if len(args.runs) > MAX_RUNS:
        raise UserError(f"{len(args.runs)} runs: expected at most {MAX_RUNS}; name fewer")


def _nothing(runs: Sequence[Run]) -> str:
    """Return why there is nothing to draw."""
    rows = sum(len(run.history) for run in runs)
    return f"nothing to draw yet in {rows:,} rows of metrics" if rows else "no metrics yet"
