"""The command line: arguments to a RunConfig, an outcome to an exit code.

Only light modules are imported at the top: every child imports this module once more, and `--help`
must not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import galamp
from galamp.cli.run_config import config_from, configured, kept_of
from galamp.core import failpoints, installation, isolation
from galamp.core.arguments import Parser
from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK, EXIT_SIGINT, GalampError, UserError, refusal
from galamp.core.processes.reaper import claim_process
from galamp.core.sanitize import one_line
from galamp.core.settings import AUTO, Setting, settings
from galamp.storage.links import followed
from galamp.telemetry.display.streams import STARTING, announce, fill_closed, tell
from galamp.workers.forkserver import leave_if_some_are_left, settle_libraries, start_server

SECTION_TITLES = {
    "": "run",
    "environment": "environment (frames: emulator frames; one agent step is --frame-skip frames)",
    "algorithm": "algorithm",
    "model": "network",
    "gossip": "gossip",
    "resources": "processes and devices",
    "report": "what is shown and kept",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    fill_closed()
    isolation.be_package()
    code = _answer(arguments)
    leave_if_some_are_left(code)
    return code


def _answer(arguments: Sequence[str] | None) -> int:
    """Run one command, and print its error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    for line in isolation.warnings():
        tell(f"galamp: {one_line(line)}\n", sys.stderr)
    if words[:1] in (["run"], ["chaos"]):
        settle_libraries()  # the parser loads numpy
    try:
        return _run(words)
    except GalampError as error:
        for problem in error.problems:
            tell(f"galamp: {one_line(problem)}\n", sys.stderr)
        for line in error.details.splitlines():
            tell(f"{one_line(line)}\n", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # Before the supervisor takes signals, or after it has handed them back.
        tell("galamp: interrupted\n", sys.stderr)
        return EXIT_SIGINT
    except BrokenPipeError:
        return EXIT_OK  # whoever read our output has left
    except OSError as error:
        text, code = refusal(error)
        tell(f"galamp: {one_line(text)}\n", sys.stderr)
        return code
    finally:
        tell("", sys.stdout)  # what cannot be written is dropped: Python would try again at exit


def _run(words: Sequence[str]) -> int:
    """Run one command, and detect here, not at exit, that its output cannot be written."""
    with installation.held(words):
        options = build_parser().parse_args(words)
        code = int(options.command(options))
    sys.stdout.flush()
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(prog="galamp", description=galamp.__doc__)
    parser.add_argument("--version", action="version", version=f"galamp {galamp.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_run(commands)
    _add_remote(commands)
    _add_eval(commands)
    _add_games(commands)
    _add_topology(commands)
    _add_audit(commands)
    _add_chaos(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="train", description="Train, or go on with a run.")
    parser.set_defaults(command=run_command)
    parser.add_argument(
        "--dry-run", action="store_true", help="print who would run where, and start nothing"
    )
    _add_run_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    groups = {
        section: parser.add_argument_group(title) for section, title in SECTION_TITLES.items()
    }
    groups[""].add_argument(
        "--resume", metavar="RUN", type=followed, help="go on with the run in this folder"
    )
    groups["environment"].add_argument(
        "--game", metavar="NAME", help="Atari game, such as Breakout (short for --env-id ALE/...)"
    )
    for setting in settings(RunConfig):
        _add_setting(groups[setting.section], setting)


def _add_setting(group: Any, setting: Setting) -> None:
    known = setting.option
    text = known.help
    if "default" not in text:
        text += f" (default: {_default(setting)})"
    keywords: dict[str, Any] = {"dest": f"{setting.section}.{setting.name}", "help": text}
    if setting.kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    else:
        keywords["metavar"] = _metavar(setting)
    group.add_argument(setting.flag, default=argparse.SUPPRESS, **keywords)


def _default(setting: Setting) -> str:
    known = setting.option
    if setting.default is None:
        return "the protocol's"
    if setting.kind is bool:
        return "yes" if setting.default else "no"
    if known.auto and setting.default == AUTO:
        return "auto"
    return f"{setting.default} {known.unit}".strip()


def _metavar(setting: Setting) -> str:
    if setting.option.choices:
        more = (setting.option.prefix + "PATH",) if setting.option.prefix else ()
        return "{" + ",".join((*setting.option.choices, *more)) + "}"
    return {int: "N", float: "X", str: "TEXT"}[setting.kind]


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

        outcome = train(_calibrated(options, config), resume=folder)
    failure = outcome.result.failure
    if failure is not None:
        tell(f"galamp: {failure}\n{failure.details}", sys.stderr)
    if config.report.json:
        tell(json.dumps(outcome.summary) + "\n", sys.stdout)
    elif not config.report.quiet:
        tell(exit_message(outcome.summary), sys.stderr)
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


def _calibrated(options: argparse.Namespace, config: RunConfig) -> RunConfig:
    """Return `config` with the fastest number of learners, if `--learners auto` asks for it."""
    if getattr(options, "resources.learners", None) != "auto":
        return config
    from galamp.training.autotune import with_quickest

    def show(line: str) -> None:
        if not config.report.quiet:
            tell(f"galamp: {line}\n", sys.stderr)

    return with_quickest(config, show, new=options.resume is None, kept=kept_of(options))


def _add_remote(commands: Any) -> None:
    from galamp.cli import attach as attach_command
    from galamp.cli import scale as scale_command

    attach = commands.add_parser("attach", help="show a running run; Ctrl-C leaves it running")
    attach_command.add_options(attach)
    scale = commands.add_parser("scale", help="give a running run more or fewer learners")
    scale_command.add_options(scale)


def _add_eval(commands: Any) -> None:
    from galamp.tools.evaluation.command import add_options

    parser = commands.add_parser("eval", help="play and score a trained agent")
    add_options(parser)


def _add_games(commands: Any) -> None:
    parser = commands.add_parser("games", help="list the Atari games that can be played")
    parser.set_defaults(command=games_command)


def _add_topology(commands: Any) -> None:
    from galamp.tools.topology.command import add_options

    parser = commands.add_parser("topology", help="look at a gossip graph, and plan with it")
    add_options(parser)


def _add_audit(commands: Any) -> None:
    from galamp.tools.audit.command import add_options

    parser = commands.add_parser("audit", help="check that learners stayed as close as they must")
    add_options(parser)


def _add_chaos(commands: Any) -> None:
    from galamp.tools.chaos.command import add_options

    parser = commands.add_parser("chaos", help="train under faults, and see that all holds")
    parser.set_defaults(command=chaos_command)
    add_options(parser)
    _add_run_options(parser)


def chaos_command(options: argparse.Namespace) -> int:
    """`galamp chaos`."""
    from galamp.tools.chaos.command import (
        chaos_from,
        check_kept,
        check_survives,
        left_open,
        run_chaos,
    )

    left, chaos = left_open(options), chaos_from(options)
    with configured(options) as (config, folder):
        if folder is not None:
            check_kept(folder.read_config(), left, options.resume)
        check_survives(config)
        if not config.report.quiet:
            announce(STARTING, sys.stderr)
        claim_process()
        return run_chaos(chaos, _calibrated(options, config), folder)


def games_command(options: argparse.Namespace) -> int:
    """`galamp games`."""
    from galamp.environments.names import list_games

    print("\n".join(list_games()))
    return 0
