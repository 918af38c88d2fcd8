"""The command line: words to a RunConfig, an outcome to an exit code.

Only what is light is imported at the top: every child imports this module once more, and `--help`
must not wait for torch.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import galamp
from galamp import crashpoints, installation, isolation
from galamp.config import RunConfig, from_dict, from_settings
from galamp.display.streams import STARTING, announce, tell
from galamp.errors import EXIT_OK, EXIT_SIGINT, EXIT_USAGE, GalampError, UserError, did_you_mean
from galamp.forking import leave_if_some_are_left, settle_libraries, start_server
from galamp.options import AUTO, Setting, check, settings, shown
from galamp.plain import one_line
from galamp.reaper import claim_process
from galamp.storage.links import followed

SECTION_TITLES = {
    "": "run",
    "environment": "environment (frames: emulator frames; one agent step is --frame-skip frames)",
    "algorithm": "algorithm",
    "model": "network",
    "gossip": "gossip",
    "resources": "processes and devices",
    "report": "what is shown and kept",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, with the nearest option named."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with code 2."""
        self.exit(EXIT_USAGE, f"galamp: {one_line(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown here: the parser above does not know this command's flags."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # What follows an unknown flag is most likely its value.
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            flag = word.partition("=")[0]
            flags = [name for action in self._actions for name in action.option_strings]
            kind = "option" if flag.startswith("-") else "argument"
            self.error(f"unknown {kind} {shown(flag)}{did_you_mean(flag, flags)}")
        return options, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    code = _run(arguments)
    leave_if_some_are_left(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    for line in isolation.warnings():
        sys.stderr.write(f"galamp: {one_line(line)}\n")
    if words[:1] in (["run"], ["chaos"]):
        settle_libraries()  # the parser loads numpy
    try:
        with installation.held(words):
            options = build_parser().parse_args(words)
            code = int(options.command(options))
        sys.stdout.flush()  # so that a reader who has left is noticed here, not at exit
        return code
    except GalampError as error:
        for problem in error.problems:
            sys.stderr.write(f"galamp: {one_line(problem)}\n")
        for line in error.details.splitlines():
            sys.stderr.write(f"{one_line(line)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        # Before the supervisor takes signals, or after it has handed them back.
        sys.stderr.write("galamp: interrupted\n")
        return EXIT_SIGINT
    except BrokenPipeError:
        # Whoever read our output has left; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        sys.stderr.write(f"galamp: {error.strerror}: raise the limit (ulimit -n)\n")
        return EXIT_USAGE


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


def config_from(options: argparse.Namespace) -> RunConfig:
    """Return the config that the options make: over the stored one when a run is resumed.

    Raises:
        UserError: every wrong value, one line each.
    """
    known = {(setting.section, setting.name): setting for setting in settings(RunConfig)}
    values: dict[tuple[str, str], Any] = {}
    problems: list[str] = []
    for dest, given in vars(options).items():
        section, dot, name = dest.partition(".")
        if not dot:
            continue
        try:
            values[section, name] = check(known[section, name], given)
        except UserError as error:
            problems.append(str(error))
    if options.game is not None:
        if ("environment", "env_id") in values:
            problems.append("--game and --env-id: both name the environment; give one of them")
        values["environment", "env_id"] = options.game
    problems += _environment_problems(values, options.game is not None)
    if problems:
        raise UserError(*problems)
    if options.resume is not None:
        values = _stored_values(options.resume, values) | values
    return from_settings(values)


def _environment_problems(values: dict[tuple[str, str], Any], game: bool) -> list[str]:
    """Look the environment up before torch is imported: a typing error is told at once."""
    if ("environment", "env_id") not in values:
        return []
    from galamp.environments import ATARI, canonical_env_id

    name = values["environment", "env_id"]
    try:
        known = canonical_env_id(name)
    except UserError as error:
        return [f"{'--game' if game else '--env-id'}: {error}"]
    if game and not known.startswith(ATARI):
        return [f"--game {shown(name)}: expected an Atari game; other environments go by --env-id"]
    return []


def _stored_values(folder: Path, given: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Return all settings of the run in `folder`, with every choice made as it was.

    Where another number of learners is `given`, what follows from it is chosen anew.

    Raises:
        UserError: there is none, it is damaged, or a module would be imported that only it names.
    """
    from galamp.environments import check_asked
    from galamp.machine import inspect_machine
    from galamp.plan import with_devices_of, with_learners
    from galamp.storage.inspection import refuse_links
    from galamp.storage.runfolder import CONFIG, read_json

    if not os.path.isfile(folder / CONFIG):
        raise UserError(f"--resume {folder}: no run folder (it has no {CONFIG})")
    refuse_links(folder)
    stored = read_json(folder / CONFIG)
    stored.pop("resolved", None)
    config = from_dict(stored)
    asked = given.get(("environment", "env_id"), "")
    check_asked(config.environment.env_id, asked, f"--resume {folder}: the run")
    machine = inspect_machine(config.resources.device)
    learners = given.get(("resources", "learners"))
    if learners not in (None, config.resources.learners):
        config = with_learners(config, learners, machine)
    config = with_devices_of(config, machine)
    return {
        (s.section, s.name): getattr(getattr(config, s.section) if s.section else config, s.name)
        for s in settings(RunConfig)
        if s.option.stored
    }


def run_command(options: argparse.Namespace) -> int:
    """`galamp run`."""
    config = config_from(options)
    if options.dry_run and getattr(options, "resources.learners", None) == "auto":
        raise UserError("--dry-run: --learners auto trains to find the number; give a number")
    if not config.report.quiet:
        announce(STARTING, sys.stderr)
    if options.dry_run:
        from galamp.dry_run import dry_run

        dry_run(config, options.resume)
        return EXIT_OK
    crashpoints.as_role("supervisor")
    claim_process()
    start_server()  # it loads while this process does
    from galamp.display.closing import closing_line
    from galamp.training import train

    outcome = train(_calibrated(options, config), resume=options.resume)
    failure = outcome.result.failure
    if failure is not None:
        tell(f"galamp: {failure}\n{failure.details}", sys.stderr)
    if config.report.json:
        tell(json.dumps(outcome.summary) + "\n", sys.stdout)
    elif not config.report.quiet:
        tell(closing_line(outcome.summary), sys.stderr)
    return outcome.result.exit_code


def _calibrated(options: argparse.Namespace, config: RunConfig) -> RunConfig:
    """Return `config` with the quickest number of learners, where that was asked for by `auto`."""
    if getattr(options, "resources.learners", None) != "auto":
        return config
    from galamp.calibration import with_quickest

    def show(line: str) -> None:
        if not config.report.quiet:
            tell(f"galamp: {line}\n", sys.stderr)

    return with_quickest(config, show, new=options.resume is None)


def _add_remote(commands: Any) -> None:
    from galamp.remote import attach_command, scale_command

    attach = commands.add_parser("attach", help="show a running run; Ctrl-C leaves it running")
    attach_command.add_options(attach)
    scale = commands.add_parser("scale", help="give a running run more or fewer learners")
    scale_command.add_options(scale)


def _add_eval(commands: Any) -> None:
    from galamp.evaluation.command import add_options

    parser = commands.add_parser("eval", help="play and score a trained agent")
    add_options(parser)


def _add_games(commands: Any) -> None:
    parser = commands.add_parser("games", help="list the Atari games that can be played")
    parser.set_defaults(command=games_command)


def _add_topology(commands: Any) -> None:
    from galamp.study.topology_command import add_options

    parser = commands.add_parser("topology", help="look at a gossip graph, and plan with it")
    add_options(parser)


def _add_audit(commands: Any) -> None:
    from galamp.study.audit_command import add_options

    parser = commands.add_parser("audit", help="check that learners stayed as close as they must")
    add_options(parser)


def _add_chaos(commands: Any) -> None:
    from galamp.chaos.command import add_options

    parser = commands.add_parser("chaos", help="train under faults, and see that all holds")
    parser.set_defaults(command=chaos_command)
    add_options(parser)
    _add_run_options(parser)


def chaos_command(options: argparse.Namespace) -> int:
    """`galamp chaos`."""
    from galamp.chaos.command import chaos_from, check_survives, run_chaos

    chaos = chaos_from(options)
    config = config_from(options)
    check_survives(config)
    if not config.report.quiet:
        announce(STARTING, sys.stderr)
    claim_process()
    return run_chaos(chaos, _calibrated(options, config), options.resume)


def games_command(options: argparse.Namespace) -> int:
    """`galamp games`."""
    from galamp.environments import list_games

    print("\n".join(list_games()))
    return 0
