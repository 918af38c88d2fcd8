"""`galamp chaos`: the settings of a run and of its faults; `tools.chaos` does the rest."""

from __future__ import annotations

import argparse
import sys

from galamp.cli.layers import asks_for_quickest
from galamp.cli.run import calibrated
from galamp.cli.run_config import configured
from galamp.cli.run_flags import add_settings
from galamp.core.arguments import Parser
from galamp.core.errors import UserError
from galamp.core.processes.reaper import claim_process
from galamp.telemetry.display.streams import STARTING, announce
from galamp.tools.chaos import command as chaos


def add_options(parser: Parser) -> None:
    """Give `parser` the options of `galamp chaos`, and the command."""
    parser.set_defaults(command=chaos_command)
    parser.usage = "galamp chaos [options] [options of galamp run]"
    parser.description = "Train under faults, and check that the run survives them."
    parser.epilog = "All options of galamp run are taken, too: see galamp run --help."
    chaos.add_options(parser)
    add_settings(parser, shown=False)


def chaos_command(args: argparse.Namespace) -> int:
    """`galamp chaos`."""
    left, faults = chaos.left_open(args), chaos.chaos_from(args)
    with configured(args) as (config, folder):
        if folder is not None:
            chaos.check_kept(folder.read_config(), left, args.resume)
        if faults.cut and asks_for_quickest(args):
            raise UserError("--learners auto: measures one machine; with --cut give a number")
        chaos.check_survives(config, faults, folder is not None)
        if not config.report.quiet:
            announce(STARTING, sys.stderr)
        claim_process()
        return chaos.run_chaos(faults, calibrated(args, config), folder)
