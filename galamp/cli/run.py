"""`galamp run`: train, or go on with a run.

    RunConfig's options --add_settings--> parser --words--> RunConfig --training.train--> exit code

Runs in the parent; `galamp chaos` takes the same settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from galamp.algorithms import own_settings
from galamp.cli.algorithm_flags import add_own_group
from galamp.cli.presets import PRESETS
from galamp.cli.run_config import config_from, configured, dest_of, kept_of
from galamp.core import failpoints
from galamp.core.arguments import Parser, add_flag
from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK, UserError
from galamp.core.older_configs import RENAMED
from galamp.core.processes.reaper import claim_process
from galamp.core.settings import flag_of, settings
from galamp.storage.links import followed
from galamp.telemetry.display.streams import STARTING, announce, print_safely
from galamp.workers.forkserver import start_server

if TYPE_CHECKING:
    from galamp.training.supervisor import Callback

SECTION_TITLES = {
    "": "run",
    "stop": "when to end before --total-steps",
    "environment": "environment (frames: emulator frames; one agent step is --frame-skip frames)",
    "algorithm": "algorithm (those of another one: --algorithm NAME --help)",
    "model": "network",
    "gossip": "gossip",
    "resources": "processes and devices",
    "report": "what is shown and kept",
}

OWN = "algorithm.own"
"""Stands for the group of settings that only the algorithm of this command line has."""

CALLBACKS: list[Callback] = []
"""Called in the supervisor's loop: nothing, unless a program leads the run, see `cli.python`."""


def add_options(parser: Parser) -> None:
    """Give `parser` the options of `galamp run`, and the command."""
    parser.description = "Train, or go on with a run."
    parser.set_defaults(command=run_command)
    parser.add_argument(
        "--dry-run", action="store_true", help="print who would run where, and start nothing"
    )
    add_settings(parser)


def add_settings(parser: Parser) -> None:
    """Give `parser` a flag for every setting of its default `usual`, and `--resume`."""
    usual: RunConfig = parser.get_default("usual")
    own = own_settings(type(usual.algorithm))
    groups: dict[str, Any] = {}
    for section, title in SECTION_TITLES.items():
        groups[section] = parser.add_argument_group(title)
        if section == "algorithm":
            groups[OWN] = add_own_group(parser, usual.algorithm)
    groups[""].add_argument(
        "--resume", metavar="RUN", type=followed, help="go on with the run in this folder"
    )
    groups["environment"].add_argument(
        "--game", metavar="NAME", help="Atari game, such as Breakout (short for --env-id ALE/...)"
    )
    groups["algorithm"].add_argument(
        "--preset",
        metavar="{" + ",".join(PRESETS) + "}",
        help="published settings of an algorithm, which other flags then change; environments are "
        "those of each learner. "
        + "; ".join(f"{name}: {known.source}" for name, known in PRESETS.items()),
    )
    for setting in settings(usual):
        ones_own = setting.section == "algorithm" and setting.name in own
        add_flag(
            groups[OWN if ones_own else setting.section],
            setting,
            dest=dest_of(setting.section, setting.name),
            default=argparse.SUPPRESS,
            none="the protocol's",
        )
    for section, former in RENAMED:
        groups[section].add_argument(
            flag_of(former),
            dest=dest_of(section, former),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def run_command(options: argparse.Namespace) -> int:
    """`galamp run`."""
    if options.dry_run:
        return _dry_run(options)
    with configured(options) as (config, folder):
        if not config.report.quiet:
            announce(STARTING, sys.stderr)
        failpoints.as_role("supervisor")
        claim_process()
        start_server()  # it loads while this process does
        from galamp.telemetry.display.exit_message import exit_message
        from galamp.training.train import train

        outcome = train(calibrated(options, config), resume=folder, callbacks=CALLBACKS)
    failure = outcome.result.failure
    if failure is not None:
        print_safely(f"galamp: {failure}\n{failure.details}", sys.stderr)
    if config.report.json:
        print_safely(json.dumps(outcome.summary) + "\n", sys.stdout)
    elif not config.report.quiet:
        print_safely(exit_message(outcome.summary), sys.stderr)
    return outcome.result.exit_code


def _dry_run(options: argparse.Namespace) -> int:
    """`galamp run --dry-run`: nothing is written, so nothing is locked."""
    config = config_from(options)
    if getattr(options, "resources.learners", None) == "auto":
        raise UserError("--dry-run: --learners auto trains to find the number; give a number")
    if not config.report.quiet:
        announce(STARTING, sys.stderr)
    from galamp.cli.dry_run import dry_run

    dry_run(config, kept_of(options))
    return EXIT_OK


def calibrated(options: argparse.Namespace, config: RunConfig) -> RunConfig:
    """Return `config` with the quickest number of learners, where that was asked for by `auto`."""
    if getattr(options, "resources.learners", None) != "auto":
        return config
    from galamp.training.autotune import with_quickest

    def show(line: str) -> None:
        if not config.report.quiet:
            print_safely(f"galamp: {line}\n", sys.stderr)

    return with_quickest(config, show, new=options.resume is None, kept=kept_of(options))
