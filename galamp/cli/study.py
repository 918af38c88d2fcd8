"""The command line of bin/study: GALA's claims on runs of one's own.

bin/study setup    install MinAtar's games, which are under the GPL and no part of galamp
bin/study plan     the blocks: what each is for, how many of its runs are done
bin/study pilot    how fast each arm is here, and how much of a block fits into the time given
bin/study rates    how fast the arms of Pong are, in turns, for the times of H3
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
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galamp.cli.study_files import known, sweep_of
from galamp.cli.study_training import (
    EXIT_DIFFERS,
    cell_command,
    peer_command,
    pilot_command,
    rates_command,
    run_command,
    setup_command,
)
from galamp.core import isolation
from galamp.core.arguments import Parser, whole_number
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, GalampError, UserError, refusal
from galamp.telemetry.display.streams import replace_unsayable
from galamp.tools.figures import add_figure_flags, figure_file
from galamp.tools.study import plan

MAX_HOURS = 1000.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    replace_unsayable()
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
    add(
        "rates",
        "Measure the arms of Pong in turns, for the times of H3, and keep it",
        rates_command,
    )
    one = add("run", "Train the runs of a block that are not done", run_command)
    _add_block(one)
    one.add_argument("--hours", metavar="H", type=_hours,
                     help="stop after so long; what was not finished goes on next time, or in "
                     "lock-step begins anew (default: to the end)")  # fmt: skip
    one.add_argument("--dir", metavar="DIR", type=Path,
                     help="folder of the runs (default: runs/study-BLOCK)")  # fmt: skip
    one = add("cell", "Repeat one run, and hold it against its row", cell_command)
    _add_block(one)
    one.add_argument("arm", metavar="ARM", help="such as gala-256")
    one.add_argument("game", metavar="GAME", help="such as breakout")
    one.add_argument("seed", metavar="SEED", type=whole_number(0, 2**31 - 1))
    one = add("peer", "Train Stable-Baselines3's A2C in Pong to +15, as published", peer_command)
    one.add_argument("--steps", metavar="N", type=whole_number(1, 10**9), default=plan.PEER_STEPS,
                     help=f"agent steps at most (default: {plan.PEER_STEPS:,})")  # fmt: skip
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


def plan_command(args: argparse.Namespace) -> int:
    """`bin/study plan`."""
    from galamp.telemetry.display.console import plain_table, table_console

    study = known()
    table = plain_table(("block", "runs", "done", "what for"), text=(0, 3))
    for name, block in plan.BLOCKS.items():
        table.add_row(name, str(len(study.planned[name])), str(len(study.rows[name])), block.about)
    table_console(sys.stdout).print(table)
    return EXIT_OK


def check_command(args: argparse.Namespace) -> int:
    """`bin/study check`."""
    from galamp.tools.study.checking import complaints, to_come

    study = known()
    found = list(complaints(study, {name: sweep_of(name).runs for name in plan.BLOCKS}))
    for line in found:
        print(line)
    for line in to_come(study):
        print(f"still to come: {line}")
    rows = sum(map(len, study.rows.values()))
    print(f"{rows} rows, {len(found)} complaints")
    return EXIT_DIFFERS if found else EXIT_OK


def report_command(args: argparse.Namespace) -> int:
    """`bin/study report`."""
    from galamp.tools.plot.figure import draw
    from galamp.tools.study.report import report
    from galamp.tools.study.text_report import charts, show

    figure, block, study = figure_file(args), plan.block_named(args.block), known()
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


if __name__ == "__main__":
    isolation.leave_working_directory()
    raise SystemExit(main())
