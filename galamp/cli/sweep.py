"""`galamp sweep`: many runs from one file, packed onto cores and GPUs; the same command goes on.

    FILE --sweep_file--> Sweep --check--> Runner: `galamp run`, a child each --> DIR/<run>, a table

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from galamp.core.arguments import whole_number
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.settings import AUTO
from galamp.tools.figures import FigureFile, add_figure_flags, figure_file

if TYPE_CHECKING:
    from galamp.tools.plot.charts import Chart
    from galamp.tools.sweep.ledger import Ledger, Start
    from galamp.tools.sweep.packing import Packing
    from galamp.tools.sweep.planned import PlannedRun, Sweep
    from galamp.tools.sweep.search import Searcher

MAX_JOBS = 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp sweep`, and the command."""
    parser.description = (
        "Run every combination of settings, environments and seeds that a file names. The same "
        "command again goes on where it was: finished runs are skipped, interrupted and failed "
        "ones are resumed, and runs that are new in the file are added. Ctrl-C has all runs save."
        "\n\n  galamp sweep sweep.toml --dry-run\n  galamp sweep sweep.toml"
    )
    parser.set_defaults(command=sweep_command)
    parser.add_argument(
        "file", metavar="FILE", type=Path,
        help="TOML: sections of a run, as for run --config, and [sweep]: see galamp help sweeps",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="check all, list the runs, start nothing"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=whole_number(1, MAX_JOBS), default=AUTO,
        help="runs at once; more than have cores share them (default: as many as have cores)",
    )  # fmt: skip
    parser.add_argument(
        "--dir", metavar="DIR", type=Path, help="folder of the runs (default: runs/NAME)"
    )
    parser.add_argument(
        "--allow", metavar="NAME", action="append", default=[],
        help="code of yours that the file names and runs may import, such as "
        "package.module:factory; may be given several times",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show nothing while it runs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON at the end")
    add_figure_flags(parser, "draw the scores into a file at the end", short="-o")


def sweep_command(args: argparse.Namespace) -> int:
    """`galamp sweep`."""
    from galamp.cli.sweep_file import sweep_from
    from galamp.tools.sweep.search import require_optuna

    figure = figure_file(args)
    sweep = sweep_from(args.file, args.allow, args.jobs)
    folder = args.dir or Path("runs") / sweep.name
    if sweep.search is not None:
        require_optuna()
    with _ledger(folder, args) as ledger:
        if sweep.search is not None:
            return _search(sweep, ledger, figure, args)
        starts = ledger.starts(sweep)
        packing = _checked(sweep, starts, args)
        if args.dry_run:
            _list(sweep, starts, packing, args.json)
            return EXIT_OK
        code = _train(sweep, ledger, starts, packing, quiet=args.quiet)
        _report(sweep, ledger, figure, as_json=args.json)
    return code


def train_sweep(
    sweep: Sweep,
    folder: Path,
    file: Path,
    *,
    commit: Callable[[], str] = str,
    anew: Callable[[PlannedRun], bool] = lambda run: False,
) -> int:
    """Train the runs of a sweep that are not finished, as `galamp sweep FILE --dir FOLDER` does.

    Args:
        sweep: of the file, or some runs of it.
        folder: of the sweep.
        file: of the sweep.
        commit: returns that of the checkout which starts a run, for sweep.json.
        anew: whether a run that was interrupted begins anew; what it has left is moved aside.

    Returns:
        the exit code.

    Raises:
        UserError: the folder is of another sweep, or a run cannot be started.
    """
    args = argparse.Namespace(file=file, dry_run=False, quiet=False)
    with _ledger(folder, args, commit) as ledger:
        starts = [
            start._replace(resume=start.resume and not anew(start.run))
            for start in ledger.starts(sweep)
        ]
        code = _train(sweep, ledger, starts, _checked(sweep, starts, args), quiet=False)
        _report(sweep, ledger, None, as_json=False)
    return code


def _search(
    sweep: Sweep, ledger: Ledger, figure: FigureFile | None, args: argparse.Namespace
) -> int:
    """Run the trials of a search; returns the exit code."""
    from galamp.supervision.signals import Signals
    from galamp.tools.sweep.progress import Progress
    from galamp.tools.sweep.runner import Runner
    from galamp.tools.sweep.search import Searcher
    from galamp.tools.sweep.search_report import charted, search_results, show_search
    from galamp.tools.sweep.text_report import charts_of

    searcher = Searcher(sweep, ledger, reads_only=args.dry_run)
    packing = _checked(sweep, searcher.corners(), args)
    count = searcher.count
    if args.dry_run:
        _list_search(sweep, searcher, as_json=args.json)
        return EXIT_OK
    with Signals(detach=False) as signals, Progress(ledger, count, quiet=args.quiet) as progress:
        runner = Runner(ledger, packing, progress, gpus=sweep.config.gpus)
        code = runner.run((), signals, searcher.more)
    searcher.settle()
    trials = searcher.trials()
    result = search_results(sweep, ledger, trials)
    _print(result, charts_of(charted(sweep, trials), ledger), show_search, figure, args.json)
    return code


def _list_search(sweep: Sweep, searcher: Searcher, *, as_json: bool) -> None:
    """Print what is searched, and how much of it is still to do."""
    from galamp.telemetry.display.console import plain_table, table_console

    assert sweep.search is not None
    ranges = {each.name: str(each) for each in sweep.search.ranges}
    if as_json:
        known = [
            {"arm": trial.arm, "trial": trial.number, "state": trial.state,
             "score": trial.score, "settings": dict(trial.params)}
            for trial in searcher.trials()
        ]  # fmt: skip
        print(json.dumps({"sweep": sweep.name, "ranges": ranges, "trials": known,
                          "runs_to_do": searcher.count}))  # fmt: skip
        return
    table = plain_table(("flag", "range"), text=(0, 1))
    for name, text in ranges.items():
        table.add_row(name, text)
    console = table_console(sys.stdout)
    console.print(table)
    arms = f" of each of {len(sweep.arms)} arms" if len(sweep.arms) > 1 else ""
    each = len(sweep.runs) // len(sweep.arms)
    runs = "" if len(sweep.arms) > 1 else f", {each} run{'s' if each > 1 else ''} each"
    console.print(f"{sweep.search.trials} trials{arms}{runs}; {searcher.count} runs to do")


@contextlib.contextmanager
def _ledger(
    folder: Path, args: argparse.Namespace, commit: Callable[[], str] = str
) -> Iterator[Ledger]:
    """Yield what is known of a sweep's folder, which is made and locked unless nothing is run.

    Raises:
        UserError: another sweep has it, it is of something else, or it cannot be made.
    """
    from galamp.storage.locks import take_lock
    from galamp.tools.sweep.ledger import Ledger

    if args.dry_run:
        yield Ledger(folder, args.file)
        return
    Ledger(folder, args.file)  # before anything is made
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--dir {folder}: {error.strerror}; choose another") from None
    with contextlib.closing(take_lock(folder, datetime.now())):
        yield Ledger(folder, args.file, commit)


def _checked(sweep: Sweep, starts: Sequence[Start], args: argparse.Namespace) -> Packing:
    """Check all that is to be begun, and return the machine's cores and GPUs to pack onto.

    Raises:
        UserError: a line for each arm and environment that cannot be run.
    """
    from galamp.telemetry.display.streams import announce
    from galamp.tools.sweep.checking import Survey, check_all

    if starts and not args.quiet:
        announce("galamp: checking: loading PyTorch, trying the environments\n", sys.stderr)
    packing, cores = packing_here(sweep, gpus=any(start.run.uses_gpus for start in starts))
    check_all(starts, packing, cores, Survey())
    return packing


def packing_here(sweep: Sweep, *, gpus: bool) -> tuple[Packing, list[int]]:
    """Return this machine's cores, and GPUs if they are used, to pack onto, and the cores."""
    from galamp.core.machine.machine import inspect_machine
    from galamp.tools.sweep.packing import Packing

    machine = inspect_machine("auto" if gpus else "cpu")
    neighbours = sorted(machine.cpus, key=lambda cpu: (cpu.node, cpu.core, cpu.number))
    cores = [cpu.number for cpu in neighbours][: machine.usable]
    config = sweep.config
    packing = Packing(cores, len(machine.gpus), jobs=config.jobs, runs_per_gpu=config.runs_per_gpu)
    return packing, cores


def _list(sweep: Sweep, starts: Sequence[Start], packing: Packing, as_json: bool) -> None:
    """Print every run, what is to be done with it, and how many cores it would get."""
    from galamp.telemetry.display.console import plain_table, table_console

    resumes = {start.run.name: start.resume for start in starts}
    todo = {True: "goes on", False: "starts", None: "is finished"}
    rows = [
        {
            "run": run.name, "arm": run.arm, "env_id": run.env_id, "seed": run.seed,
            "hash": run.hash, "cores": packing.cores_for(run.cores),
            "todo": todo[resumes.get(run.name)], "settings": run.settings,
        }
        for run in sweep.runs
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"sweep": sweep.name, "runs": rows}))
        return
    table = plain_table(("run", "cores", "", "hash"), text=(0, 2, 3))
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("run", "cores", "todo", "hash")))
    console = table_console(sys.stdout)
    console.print(table)
    console.print(f"{len(rows)} runs, {len(starts)} to do")


def _train(
    sweep: Sweep, ledger: Ledger, starts: Sequence[Start], packing: Packing, *, quiet: bool
) -> int:
    """Run all that is to be done; returns the exit code."""
    from galamp.supervision.signals import Signals
    from galamp.tools.sweep.progress import Progress
    from galamp.tools.sweep.runner import Runner

    with Signals(detach=False) as signals, Progress(ledger, len(starts), quiet=quiet) as progress:
        return Runner(ledger, packing, progress, gpus=sweep.config.gpus).run(starts, signals)


def _report(sweep: Sweep, ledger: Ledger, figure: FigureFile | None, *, as_json: bool) -> None:
    """Print the results, and draw them: on a terminal, or into the file."""
    from galamp.tools.sweep.results import results
    from galamp.tools.sweep.text_report import charts_of, show

    _print(results(sweep, ledger), charts_of(sweep, ledger), show, figure, as_json)


def _print(
    result: dict[str, Any],
    charts: Sequence[Chart],
    show: Callable[[dict[str, Any], TextIO], None],
    figure: FigureFile | None,
    as_json: bool,
) -> None:
    from galamp.core.disk import finite
    from galamp.tools.plot import follow

    if as_json:
        print(json.dumps(finite(result)))
    else:
        show(result, sys.stdout)
        if charts and figure is None and sys.stdout.isatty():
            follow.show(charts)
    if charts and figure is not None:
        from galamp.tools.plot.figure import draw

        figure.write(draw(charts, figure.format))
