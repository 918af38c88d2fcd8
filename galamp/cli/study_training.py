"""Commands of bin/study that train: pilot, rates, run, cell, peer; and setup, before them.

file of a block --run--> run folders, rows; a row --cell--> the same run once more, beside it
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.cli.study_files import sweep_of
from galamp.core.errors import EXIT_FAILURE, EXIT_OK, EXIT_SIGTERM, UserError
from galamp.tools.study import plan

if TYPE_CHECKING:
    from galamp.tools.study.rows import Row
    from galamp.tools.sweep.planned import PlannedRun

EXIT_DIFFERS = 1
"""Exit code if something does not agree."""
HOUR_S = 3600.0


def setup_command(args: argparse.Namespace) -> int:
    """`bin/study setup`."""
    words = [sys.executable, "-m", "pip", "install", "--no-deps", plan.PACKAGE]
    return subprocess.run(words, check=False).returncode


def pilot_command(args: argparse.Namespace) -> int:
    """`bin/study pilot`."""
    from galamp.cli.sweep import packing_here
    from galamp.telemetry.display.console import plain_table, table_console
    from galamp.tools.study.pilot import fitting_seeds, hours, rates

    sweep = sweep_of(args.block)
    packing, cores = packing_here(sweep, gpus=any(run.uses_gpus for run in sweep.runs))
    found = rates(sweep, packing, lambda text: sys.stderr.write(f"galamp: study: {text}\n"))
    table = plain_table(("arm", "agent steps/s", "runs", "hours"))
    for rate in found:
        of = [run for run in sweep.runs if run.arm == rate.arm]
        taken = f"{hours(of, found, packing):.2f}"
        table.add_row(rate.arm, f"{rate.per_s:,.0f}", str(rate.runs), taken)
    console = table_console(sys.stdout)
    console.print(table)
    seeds = len({run.seed for run in sweep.runs})
    console.print(
        f"All {len(sweep.runs)} runs, on {len(cores)} cores, each at the rate that it has alone: "
        f"{hours(sweep.runs, found, packing):.1f} h. In {args.hours:g} h: "
        f"{fitting_seeds(sweep.runs, found, packing, args.hours)} of {seeds} seeds of each arm and "
        "game."
    )
    return EXIT_OK


def rates_command(args: argparse.Namespace) -> int:
    """`bin/study rates`."""
    from galamp.cli.sweep import packing_here
    from galamp.telemetry.display.console import plain_table, table_console
    from galamp.tools.bench.tables import Origin
    from galamp.tools.study import pong_rates
    from galamp.tools.study.checkout import commit
    from galamp.tools.study.pilot import measured

    sweep = sweep_of("pong")
    if pong_rates.current(pong_rates.read(), sweep.runs):
        sys.stderr.write(
            f"galamp: study: {pong_rates.FILE} has the rate of every arm; remove it to measure "
            "them anew\n"
        )
        return EXIT_OK
    packing, _ = packing_here(sweep, gpus=any(run.uses_gpus for run in sweep.runs))

    def rate_of(run: PlannedRun) -> float:
        per_s, _ = measured(run, packing)
        sys.stderr.write(f"galamp: study: {run.arm}: {per_s:,.0f} agent steps/s\n")
        return per_s

    found = pong_rates.measure(sweep.runs, rate_of, Origin.here("").machine_line, commit())
    pong_rates.write(found)
    table = plain_table(("arm", "agent steps/s", "min - max"))
    for rate in found:
        least, most = min(rate.per_s), max(rate.per_s)
        table.add_row(rate.arm, f"{rate.median:,.0f}", f"{least:,.0f} - {most:,.0f}")
    table_console(sys.stdout).print(table)
    return EXIT_OK


def run_command(args: argparse.Namespace) -> int:
    """`bin/study run`."""
    from galamp.cli.sweep import train_sweep
    from galamp.tools.study.checkout import commit
    from galamp.tools.study.collecting import collect

    block, sweep = plan.block_named(args.block), sweep_of(args.block)
    folder = args.dir or Path("runs") / sweep.name
    code, failure, added = EXIT_SIGTERM, None, 0
    if left := without_row(sweep.runs, block):
        added = collect(left, block, folder).added  # a call may have been killed before it did
        left = without_row(left, block)
    if not left:
        new = f", {added} of them new" if added else ""
        sys.stderr.write(f"galamp: study: {block.results} has a row of every run{new}\n")
        return EXIT_OK
    with ended_after(args.hours) as ended:
        try:
            code = train_sweep(
                replace(sweep, runs=left), folder, block.file, commit=commit, anew=in_lock_step
            )
        except UserError as error:  # such as a folder that is damaged: others may have finished
            failure = error
    done = collect(left, block, folder)
    for line in done.damaged:
        sys.stderr.write(f"galamp: study: {line}\n")
    sys.stderr.write(f"galamp: study: {added + done.added} new rows in {block.results}\n")
    if failure is not None:
        raise failure
    if done.damaged:
        return EXIT_FAILURE
    if code == EXIT_SIGTERM and ended():
        return EXIT_OK
    return code


def without_row(runs: Sequence[PlannedRun], block: plan.Block) -> tuple[PlannedRun, ...]:
    """Return the runs of which the block's results have no row."""
    from galamp.tools.study.rows import read_rows
    from galamp.tools.study.study import cell_of

    stored = {(row.cell, row.hash) for row in read_rows(block.results)}
    return tuple(run for run in runs if (cell_of(run), run.hash) not in stored)


def in_lock_step(run: PlannedRun) -> bool:
    """Return whether a run can be repeated to the bit, if it was not interrupted."""
    return run.config.gossip.sync


def cell_command(args: argparse.Namespace) -> int:
    """`bin/study cell`."""
    from galamp.cli.main import main as galamp
    from galamp.tools.study.collecting import row_of
    from galamp.tools.study.rows import Cell, read_rows
    from galamp.tools.study.study import cell_of
    from galamp.tools.sweep.planned import flags

    block, cell = plan.block_named(args.block), Cell(args.arm, args.game, args.seed)
    run = next((run for run in sweep_of(args.block).runs if cell_of(run) == cell), None)
    if run is None:
        raise UserError(f"{cell}: no run of block {args.block}; bin/study plan shows the blocks")
    with tempfile.TemporaryDirectory(prefix="galamp-study-") as place:
        folder = Path(place, "run")
        words = ["run", "--quiet", f"--run-dir={folder}", *flags(run)]
        if (code := galamp(words)) != EXIT_OK:
            return code
        row = row_of(run, folder)
    rows = [each for each in read_rows(block.results) if each.cell == cell]
    same = [each for each in rows if each.hash == row.hash]
    return compared(row, next(iter(same or rows), None), lock_step=in_lock_step(run))


def compared(row: Row, stored: Row | None, *, lock_step: bool) -> int:
    """Print a repeated run beside its row; returns the exit code."""
    print(f"{row.cell}: final score {row.final}, {row.agent_steps:,} agent steps")
    if stored is None:
        print("no row is stored to hold it against")
        return EXIT_OK
    print(f"stored: final score {stored.final}, {stored.agent_steps:,} agent steps")
    if stored.hash != row.hash:
        print("with other settings")
        return EXIT_DIFFERS
    if not lock_step:
        print("not in lock-step, so that its bits differ from run to run")
        return EXIT_OK
    if not (stored.parameters and row.parameters):
        print(f"no bits to compare: {_without_bits(row, stored)}")
        return EXIT_DIFFERS
    same = stored.parameters == row.parameters
    print("the same bits" if same else "not the same bits: another machine, or another torch?")
    if not same and stored.starts is None:
        print("the row does not tell whether its run was interrupted, which changes them, too")
    return EXIT_OK if same else EXIT_DIFFERS


def _without_bits(row: Row, stored: Row) -> str:
    """Return why one of two runs in lock-step has no digest of its parameters."""
    from galamp.tools.study.checking import interrupted

    which, of = ("the stored run", stored) if not stored.parameters else ("this run", row)
    return f"{which} was {interrupted(of) or 'interrupted'}, which changes them"


def peer_command(args: argparse.Namespace) -> int:
    """`bin/study peer`."""
    from galamp.tools.bench.tables import Origin
    from galamp.tools.study import stable_baselines3
    from galamp.tools.study.kept import CUT_SHORT

    whole = stable_baselines3.is_whole
    if any(run.seed == args.seed and whole(run) for run in stable_baselines3.read()):
        sys.stderr.write(
            f"galamp: study: {stable_baselines3.FILE} has a run of seed {args.seed}; give another "
            "--seed\n"
        )
        return EXIT_OK
    run = stable_baselines3.train(args.seed, args.steps)
    ended = "+15" if run.reached_s is not None else f"a score of {run.score}"
    print(
        f"Stable-Baselines3 {run.version}: {ended} after {run.agent_steps:,} agent steps, "
        f"{run.wall_s / 60:.1f} minutes"
    )
    if whole(run):
        stable_baselines3.add(replace(run, machine=Origin.here("").machine_line))
    else:
        print(f"not kept: it {CUT_SHORT}")
    return EXIT_OK


@contextmanager
def ended_after(hours: float | None) -> Iterator[Callable[[], bool]]:
    """Have this process get SIGTERM after a time; yields a function that says whether it did.

    SIGINT may be ignored, as it is in what a script has put into the background.
    """
    due: list[int] = []

    def end(number: int, frame: object) -> None:
        due.append(number)
        signal.raise_signal(signal.SIGTERM)

    before = {
        signal.SIGALRM: signal.signal(signal.SIGALRM, end),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler),
    }
    signal.setitimer(signal.ITIMER_REAL, HOUR_S * (hours or 0.0))  # 0: never
    try:
        yield lambda: bool(due)
    except KeyboardInterrupt:
        if not due:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
