"""The command line of bin/study: GALA's claims on runs of one's own.

bin/study setup    install MinAtar's games, which are under the GPL and no part of galamp
bin/study plan     the blocks: what each is for, how many of its runs are done
bin/study pilot    how fast each arm is here, and how much of a block fits into the time given
bin/study run      train the runs of a block that are not done, and keep a row of each
bin/study cell     repeat one run, and hold it against its row
bin/study peer     train Stable-Baselines3's A2C in Pong, with its published settings
bin/study check    whether rows, files and the rule for learning rates agree
bin/study report   decisions, tables, a picture
bin/study power    what so many runs can show, by simulation
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.core import isolation
from galamp.core.arguments import Parser, whole_number
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, GalampError, UserError, refusal
from galamp.tools.figures import add_figure_flags, figure_file
from galamp.tools.study import plan

if TYPE_CHECKING:
    from galamp.tools.study.report import Study
    from galamp.tools.study.rows import Cell, Row
    from galamp.tools.sweep.planned import PlannedRun, Sweep

EXIT_DIFFERS = 1
"""Exit code if something does not agree."""
HOUR_S = 3600.0
MAX_HOURS = 1000.0
PEER_STEPS = 3_000_000
"""As many as galamp's runs in Pong have."""
CODE = tuple(plan.MINATAR + game for game in plan.GAMES)
"""Environments of the study that its files name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = build_parser().parse_args(arguments)
    try:
        code: int = args.command(args)
    except GalampError as error:
        sys.stderr.write(f"galamp: study: {error}\n")
        return error.exit_code
    except OSError as error:
        text, code = refusal(error)
        sys.stderr.write(f"galamp: study: {text}\n")
        return code
    except KeyboardInterrupt:
        sys.stderr.write("\ngalamp: study: interrupted\n")
        return EXIT_SIGINT
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="bin/study",
        description="Test GALA's claims by runs of your own; galamp help evidence explains it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, command: Callable[[argparse.Namespace], int]) -> Parser:
        one = commands.add_parser(name, help=text, description=f"{text}.")
        one.set_defaults(command=command)
        assert isinstance(one, Parser)
        return one

    add("setup", "Install MinAtar's games beside galamp; they are under the GPL", setup_command)
    add("plan", "Show the blocks, and how many of their runs are done", plan_command)
    one = add("pilot", "Measure each arm of a block, and say what fits into a time", pilot_command)
    _add_block(one)
    one.add_argument("--hours", metavar="H", type=_hours, default=3.0,
                     help="time that there is (default: 3)")  # fmt: skip
    one = add("run", "Train the runs of a block that are not done", run_command)
    _add_block(one)
    one.add_argument("--hours", metavar="H", type=_hours,
                     help="stop after so long; what was not finished goes on next time "
                     "(default: to the end)")  # fmt: skip
    one.add_argument("--dir", metavar="DIR", type=Path,
                     help="folder of the runs (default: runs/study-BLOCK)")  # fmt: skip
    one = add("cell", "Repeat one run, and hold it against its row", cell_command)
    _add_block(one)
    one.add_argument("arm", metavar="ARM", help="such as gala-256")
    one.add_argument("game", metavar="GAME", help="such as breakout")
    one.add_argument("seed", metavar="SEED", type=whole_number(0, 2**31 - 1))
    one = add("peer", "Train Stable-Baselines3's A2C in Pong to +15, as published", peer_command)
    one.add_argument("--steps", metavar="N", type=whole_number(1, 10**9), default=PEER_STEPS,
                     help=f"agent steps at most (default: {PEER_STEPS:,})")  # fmt: skip
    one.add_argument("--seed", metavar="N", type=whole_number(0, 2**31 - 1), default=1,
                     help="seed (default: 1)")  # fmt: skip
    add("check", "Hold rows, files and the rule for learning rates together", check_command)
    one = add("report", "Show decisions and tables, draw a picture", report_command)
    one.add_argument("--json", action="store_true", help="print the report as JSON")
    one.add_argument("--block", metavar="BLOCK", default="robustness",
                     help="whose curves the picture has (default: robustness)")  # fmt: skip
    add_figure_flags(one, "draw the curves of a block", short="-o")
    one = add("power", "Simulate what so many runs can show", power_command)
    one.add_argument("--repeats", metavar="N", type=whole_number(10, 100_000), default=200,
                     help="simulated studies per line (default: 200)")  # fmt: skip
    return parser


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"expected hours, up to {MAX_HOURS:,.0f}, got {text}")
    return hours


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("block", metavar="BLOCK", help=f"one of {', '.join(plan.BLOCKS)}")


def setup_command(args: argparse.Namespace) -> int:
    """`bin/study setup`."""
    words = [sys.executable, "-m", "pip", "install", "--no-deps", plan.PACKAGE]
    return subprocess.run(words, check=False).returncode


def plan_command(args: argparse.Namespace) -> int:
    """`bin/study plan`."""
    from galamp.telemetry.display.console import plain_table, table_console

    study = _study()
    table = plain_table(("block", "runs", "done", "what for"), text=(0, 3))
    for name, block in plan.BLOCKS.items():
        table.add_row(name, str(len(study.planned[name])), str(len(study.rows[name])), block.about)
    table_console(sys.stdout).print(table)
    return EXIT_OK


def pilot_command(args: argparse.Namespace) -> int:
    """`bin/study pilot`."""
    from galamp.telemetry.display.console import plain_table, table_console
    from galamp.tools.study.pilot import fitting_seeds, rates

    sweep = _sweep(args.block)
    found = rates(sweep, lambda text: sys.stderr.write(f"galamp: study: {text}\n"))
    table = plain_table(("arm", "agent steps/s", "runs", "hours"))
    for rate in found:
        table.add_row(rate.arm, f"{rate.per_s:,.0f}", str(rate.runs), f"{rate.hours:.2f}")
    console = table_console(sys.stdout)
    console.print(table)
    hours = sum(rate.hours for rate in found)
    seeds = len({run.seed for run in sweep.runs})
    console.print(
        f"All {len(sweep.runs)} runs, one after the other: {hours:.1f} h. In {args.hours:g} h: "
        f"{fitting_seeds(hours, args.hours, seeds)} of {seeds} seeds of each arm and game."
    )
    return EXIT_OK


def run_command(args: argparse.Namespace) -> int:
    """`bin/study run`."""
    from galamp.cli.sweep import train_sweep
    from galamp.tools.study.collecting import collect

    block, sweep = plan.block_named(args.block), _sweep(args.block)
    folder, known = args.dir or Path("runs") / sweep.name, _known(block)
    left = tuple(run for run in sweep.runs if (_cell(run), run.hash) not in known)
    if not left:
        sys.stderr.write(f"galamp: study: {block.results} has a row of every run\n")
        return EXIT_OK
    code = EXIT_SIGTERM
    with _ended_after(args.hours) as ended:
        code = train_sweep(replace(sweep, runs=left), folder, block.file)
    done = collect(left, block, folder)
    sys.stderr.write(f"galamp: study: {done} new rows in {block.results}\n")
    if code == EXIT_SIGTERM and ended():
        return EXIT_OK
    return code


def cell_command(args: argparse.Namespace) -> int:
    """`bin/study cell`."""
    from galamp.cli.main import main as galamp
    from galamp.tools.study.collecting import row_of
    from galamp.tools.study.rows import Cell
    from galamp.tools.sweep.planned import flags

    sweep, cell = _sweep(args.block), Cell(args.arm, args.game, args.seed)
    run = next((run for run in sweep.runs if _cell(run) == cell), None)
    if run is None:
        raise UserError(f"{cell}: no run of block {args.block}; bin/study plan shows the blocks")
    with tempfile.TemporaryDirectory(prefix="galamp-study-") as place:
        folder = Path(place, "run")
        words = ["run", "--quiet", f"--run-dir={folder}", *flags(run)]
        if (code := galamp(words)) != EXIT_OK:
            return code
        row = row_of(run, folder)
    stored = {row.cell: row for row in _study().rows[args.block]}.get(cell)
    return _compared(row, stored)


def peer_command(args: argparse.Namespace) -> int:
    """`bin/study peer`."""
    from galamp.tools.study import stable_baselines3

    run = stable_baselines3.train(args.seed, args.steps)
    stable_baselines3.add(run)
    ended = "+15" if run.reached_s is not None else f"a score of {run.score}"
    print(
        f"Stable-Baselines3 {run.version}: {ended} after {run.agent_steps:,} agent steps, "
        f"{run.wall_s / 60:.1f} minutes"
    )
    return EXIT_OK


def check_command(args: argparse.Namespace) -> int:
    """`bin/study check`."""
    from galamp.tools.study.checking import complaints

    study, sweeps = _study(), {name: _sweep(name) for name in plan.BLOCKS}
    found = list(complaints(study, {name: sweep.runs for name, sweep in sweeps.items()}))
    for line in found:
        print(line)
    rows = sum(map(len, study.rows.values()))
    print(f"{rows} rows, {len(found)} complaints")
    return EXIT_DIFFERS if found else EXIT_OK


def report_command(args: argparse.Namespace) -> int:
    """`bin/study report`."""
    from galamp.tools.plot.figure import draw
    from galamp.tools.study.report import report
    from galamp.tools.study.text_report import charts, show

    figure, block, study = figure_file(args), plan.block_named(args.block), _study()
    found = report(study)
    if args.json:
        print(json.dumps(found))
    else:
        show(found, sys.stdout)
    if figure is not None:
        drawn = charts(study, block.name)
        if not drawn:
            raise UserError(f"block {block.name}: no run is done, so there is nothing to draw")
        figure.write(draw(drawn, figure.format))
    return EXIT_OK


def power_command(args: argparse.Namespace) -> int:
    """`bin/study power`."""
    from galamp.telemetry.display.console import plain_table, table_console
    from galamp.tools.study.power import powers

    table = plain_table(("test", "games", "seeds", "difference", "shown by"), text=(0, 3))
    for each in powers(args.repeats):
        shown = f"{100 * each.share:.0f} %"
        table.add_row(each.test, str(each.games), str(each.seeds), each.difference, shown)
    table_console(sys.stdout).print(table)
    return EXIT_OK


def _sweep(name: str) -> Sweep:
    from galamp.cli.sweep_file import sweep_from

    return sweep_from(plan.block_named(name).file, CODE)


def _study() -> Study:
    from galamp.tools.study.report import study_of

    return study_of({name: [_cell(run) for run in _sweep(name).runs] for name in plan.BLOCKS})


def _cell(run: PlannedRun) -> Cell:
    from galamp.tools.study.rows import Cell

    return Cell(run.arm, plan.game_of(run.env_id), run.seed)


def _known(block: plan.Block) -> set[tuple[Cell, str]]:
    """Return the runs of which there is a row: their cell, and the digest of their settings."""
    from galamp.tools.study.rows import read_rows

    return {(row.cell, row.hash) for row in read_rows(block.results)}


def _compared(row: Row, stored: Row | None) -> int:
    """Print a repeated run beside its row; returns the exit code."""
    print(f"{row.cell}: final score {row.final}, {row.agent_steps:,} agent steps")
    if stored is None:
        print("no row is stored to hold it against")
        return EXIT_OK
    print(f"stored: final score {stored.final}, {stored.agent_steps:,} agent steps")
    if stored.hash != row.hash:
        print("with other settings")
        return EXIT_DIFFERS
    if not stored.parameters:
        print("not in lock-step, so that its bits differ from run to run")
        return EXIT_OK
    same = stored.parameters == row.parameters
    print("the same bits" if same else "not the same bits: another machine, or another torch?")
    return EXIT_OK if same else EXIT_DIFFERS


@contextmanager
def _ended_after(hours: float | None) -> Iterator[Callable[[], bool]]:
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


if __name__ == "__main__":
    isolation.leave_working_directory()
    raise SystemExit(main())
