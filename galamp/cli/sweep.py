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
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.core.arguments import whole_number
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.settings import AUTO
from galamp.tools.figures import FigureFile, add_figure_flags, figure_file

if TYPE_CHECKING:
    from galamp.tools.sweep.ledger import Ledger, Start
    from galamp.tools.sweep.packing import Packing
    from galamp.tools.sweep.planned import Sweep

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

    figure = figure_file(args)
    sweep = sweep_from(args.file, args.allow, args.jobs)
    folder = args.dir or Path("runs") / sweep.name
    with _ledger(folder, args) as ledger:
        starts = ledger.starts(sweep)
        packing = _checked(sweep, starts, args)
        if args.dry_run:
            _list(sweep, starts, packing, args.json)
            return EXIT_OK
        code = _train(sweep, ledger, starts, packing, quiet=args.quiet)
        _report(sweep, ledger, figure, as_json=args.json)
    return code


@contextlib.contextmanager
def _ledger(folder: Path, args: argparse.Namespace) -> Iterator[Ledger]:
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
        yield Ledger(folder, args.file)


def _checked(sweep: Sweep, starts: Sequence[Start], args: argparse.Namespace) -> Packing:
    """Check all that is to be begun, and return the machine's cores and GPUs to pack onto.

    Raises:
        UserError: a line for each arm and environment that cannot be run.
    """
    from galamp.core.machine.machine import inspect_machine
    from galamp.telemetry.display.streams import announce
    from galamp.tools.sweep.checking import check_all, survey
    from galamp.tools.sweep.packing import Packing

    if starts and not args.quiet:
        announce("galamp: checking: loading PyTorch, trying the environments\n", sys.stderr)
    on_gpus = any(start.run.uses_gpus for start in starts)
    machine = inspect_machine("auto" if on_gpus else "cpu")
    neighbours = sorted(machine.cpus, key=lambda cpu: (cpu.node, cpu.core, cpu.number))
    cores = [cpu.number for cpu in neighbours][: machine.usable]
    config = sweep.config
    packing = Packing(cores, len(machine.gpus), jobs=config.jobs, runs_per_gpu=config.runs_per_gpu)
    check_all(starts, packing, cores, survey)
    return packing


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
    from galamp.core.disk import finite
    from galamp.tools.plot import follow
    from galamp.tools.sweep.results import results
    from galamp.tools.sweep.text_report import charts_of, show

    result, charts = results(sweep, ledger), charts_of(sweep, ledger)
    if as_json:
        print(json.dumps(finite(result)))
    else:
        show(result, sys.stdout)
        if charts and figure is None and sys.stdout.isatty():
            follow.show(charts)
    if charts and figure is not None:
        from galamp.tools.plot.figure import draw

        figure.write(draw(charts, figure.format))
