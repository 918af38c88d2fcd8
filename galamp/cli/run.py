"""`galamp run`: train, or go on with a run.

    run_flags --add_settings--> parser --words--> RunConfig --training.train--> exit code

Runs in the parent; `galamp chaos` takes the same settings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from galamp.cli.layers import asks_for_quickest
from galamp.cli.run_config import config_with_sources, configured, kept_of
from galamp.cli.run_flags import add_settings
from galamp.core import failpoints
from galamp.core.arguments import Parser
from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.processes.reaper import claim_process
from galamp.telemetry.display.streams import STARTING, announce, print_safely
from galamp.workers.forkserver import start_server

if TYPE_CHECKING:
    from galamp.tools.profile.first_minute import FirstMinute
    from galamp.training.supervisor import Callback

EXAMPLES = """\
  galamp run --game Breakout              train; Ctrl-C saves and stops
  galamp run --preset cartpole --seed 2   a minute to the full score"""
"""What the help begins with."""

CALLBACKS: list[Callback] = []
"""Called in the supervisor's loop: nothing, unless a program leads the run, see `cli.python`."""


def add_options(parser: Parser) -> None:
    """Give `parser` the options of `galamp run`, and the command."""
    parser.usage = "galamp run [options]"
    parser.description = f"Train, or go on with a run.\n\n{EXAMPLES}"
    parser.set_defaults(command=run_command)
    add_settings(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be run, where each setting is from, and who would run where; start "
        "nothing",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record all processes for a minute, once they are warm, as galamp profile does",
    )
    parser.put_help_last()


def run_command(args: argparse.Namespace) -> int:
    """`galamp run`."""
    if args.dry_run:
        return _dry_run(args)
    with configured(args) as (config, folder), _profiling(args.profile) as profilers:
        if not config.report.quiet:
            announce(STARTING, sys.stderr)
        failpoints.as_role("supervisor")
        claim_process()
        start_server()  # it loads while this process does
        from galamp.telemetry.display.exit_message import exit_message
        from galamp.training.train import train

        callbacks = [*CALLBACKS, *profilers]
        outcome = train(calibrated(args, config), resume=folder, callbacks=callbacks)
    failure = outcome.result.failure
    if failure is not None:
        print_safely(f"galamp: {failure}\n{failure.details}", sys.stderr)
    if config.report.json:
        print_safely(json.dumps(outcome.summary) + "\n", sys.stdout)
    elif not config.report.quiet:
        from galamp.storage.own_code import own_code_flags
        from galamp.tools.run_folders.record import config_of

        named = own_code_flags(config_of(outcome.folder))
        print_safely(exit_message(outcome.summary, *named), sys.stderr)
    return outcome.result.exit_code


@contextlib.contextmanager
def _profiling(wanted: bool) -> Iterator[list[FirstMinute]]:
    """Yield what records the first minute of the run, if that is wanted.

    Raises:
        UserError: py-spy is not installed.
    """
    if not wanted:
        yield []
        return
    from galamp.tools.profile.first_minute import FirstMinute
    from galamp.tools.profile.recording import py_spy

    py_spy()
    with contextlib.closing(FirstMinute()) as first_minute:
        yield [first_minute]


def _dry_run(args: argparse.Namespace) -> int:
    """`galamp run --dry-run`: nothing is written, so nothing is locked."""
    config, sources = config_with_sources(args)
    if asks_for_quickest(args):
        raise UserError("--dry-run: --learners auto trains to find the number; give a number")
    if not config.report.quiet:
        announce(STARTING, sys.stderr)
    from galamp.cli.dry_run import dry_run

    dry_run(config, kept_of(args), sources)
    return EXIT_OK


def calibrated(args: argparse.Namespace, config: RunConfig) -> RunConfig:
    """Return `config` with the quickest number of learners, where that was asked for by `auto`."""
    if not asks_for_quickest(args):
        return config
    if config.cluster.nodes > 1:
        raise UserError("--learners auto: measures one machine; with --nodes give a number")
    from galamp.training.autotune import with_quickest

    def show(line: str) -> None:
        if not config.report.quiet:
            print_safely(f"galamp: {line}\n", sys.stderr)

    return with_quickest(config, show, new=args.resume is None, kept=kept_of(args))
