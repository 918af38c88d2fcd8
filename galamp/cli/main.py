"""The command line: words to a command of `COMMANDS`, its outcome to an exit code.

Only what is light is imported at the top, and so by the modules in the table: every child imports
this module once more, and `--help` must not wait for torch.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import galamp
from galamp.cli.field_words import command_elsewhere, flags_elsewhere
from galamp.cli.help import topics_list
from galamp.cli.overview import overview
from galamp.core import installation, isolation
from galamp.core.arguments import CommandsFormatter, Parser
from galamp.core.errors import (
    EXIT_OK,
    EXIT_SIGINT,
    NEAR,
    GalampError,
    UserError,
    did_you_mean,
    refusal,
)
from galamp.core.sanitize import one_line
from galamp.core.settings import shown
from galamp.telemetry.display.streams import fill_closed, print_safely, replace_unsayable
from galamp.workers.forkserver import exit_if_children_remain, settle_libraries


class Command(NamedTuple):
    """One command of `galamp`.

    Attributes:
        module: what has its `add_options`, which gives a parser the options of the command, and the
            command itself: a function from the parsed options to an exit code, as `command`.
        help: what it is for.
        trains: whether learners compute, here or in children: it has the settings of a run.
    """

    module: str
    help: str
    trains: bool = False


COMMANDS = {
    "run": Command("galamp.cli.run", "train", trains=True),
    "attach": Command("galamp.cli.attach", "show a running run; Ctrl-C leaves it running"),
    "scale": Command("galamp.cli.scale", "give a running run more or fewer learners"),
    "sweep": Command("galamp.cli.sweep", "run many: settings, environments, seeds, from a file"),
    "show": Command("galamp.tools.run_folders.show_command", "show all that is known of a run"),
    "ls": Command("galamp.tools.run_folders.ls_command", "list runs"),
    "prune": Command(
        "galamp.tools.run_folders.prune_command", "remove older checkpoints, or whole runs"
    ),
    "eval": Command("galamp.tools.evaluation.command", "play and score a trained agent"),
    "play": Command(
        "galamp.tools.play.play_command", "watch a trained agent in the terminal, or play yourself"
    ),
    "record": Command("galamp.tools.play.record_command", "record a trained agent as a video"),
    "export": Command(
        "galamp.tools.export.command", "write a trained agent as ONNX, TorchScript, safetensors"
    ),
    "plot": Command("galamp.tools.plot.command", "draw the curves of runs, as text or a figure"),
    "compare": Command("galamp.tools.compare.command", "compare runs: settings, scores, speed"),
    "report": Command("galamp.tools.report.command", "write a run as one page for a browser"),
    "presets": Command("galamp.cli.presets_command", "list named settings, and what was reached"),
    "config": Command(
        "galamp.cli.config_command", "print the settings of a run or a preset, for run --config"
    ),
    "export-logs": Command(
        "galamp.tools.export_logs.command", "metrics for TensorBoard or Weights & Biases"
    ),
    "profile": Command("galamp.cli.profile", "record a running run: where its time goes"),
    "games": Command("galamp.cli.games", "list the Atari games that can be played"),
    "doctor": Command(
        "galamp.tools.doctor.command", "look at this machine, and say what to do for runs"
    ),
    "keys": Command("galamp.tools.keys.command", "make the keys of a run on several machines"),
    "completion": Command("galamp.cli.completion", "have Tab complete galamp's words in a shell"),
    "topology": Command(
        "galamp.tools.topology.command", "analyse a gossip graph: beta, bytes, predicted distance"
    ),
    "audit": Command(
        "galamp.tools.audit.command",
        "recompute the bounds on the learners' distances and check them",
    ),
    "chaos": Command(
        "galamp.cli.chaos",
        "train while processes are killed and stopped; check invariants",
        trains=True,
    ),
    "help": Command("galamp.cli.help", "explain a topic, or list all topics"),
}
"""Name -> command, in the order of `galamp --help`."""
HELP = ("help", "-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    fill_closed()
    replace_unsayable()
    isolation.be_package()
    code = _answer(arguments)
    exit_if_children_remain(code)
    return code


def _answer(arguments: Sequence[str] | None) -> int:
    """Run one command, and print its error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    for line in isolation.warnings():
        print_safely(f"galamp: {one_line(line)}\n", sys.stderr)
    if words and words[0] in COMMANDS and COMMANDS[words[0]].trains:
        settle_libraries()  # the parser loads numpy
    try:
        return _run(words)
    except GalampError as error:
        for problem in error.problems:
            print_safely(f"galamp: {one_line(problem)}\n", sys.stderr)
        for line in error.details.splitlines():
            print_safely(f"{one_line(line)}\n", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # Before the supervisor takes signals, or after it has handed them back.
        print_safely("galamp: interrupted\n", sys.stderr)
        return EXIT_SIGINT
    except BrokenPipeError:
        return EXIT_OK  # whoever read our output has left
    except OSError as error:
        text, code = refusal(error)
        print_safely(f"galamp: {one_line(text)}\n", sys.stderr)
        return code
    finally:
        print_safely(
            "", sys.stdout
        )  # what cannot be written is dropped: Python would try again at exit


def _run(words: Sequence[str]) -> int:
    """Run one command, and detect here, not at exit, that its output cannot be written."""
    if not words or (len(words) == 1 and words[0] in HELP):
        sys.stdout.write(overview(COMMANDS))
        if words and words[0] == "help":
            sys.stdout.write(f"\n{topics_list()}")
        sys.stdout.flush()
        return EXIT_OK
    if len(words) == 2 and words[0] == "help" and words[1] in COMMANDS:
        words = [words[1], "--help"]
    _check_command(words[0])
    with installation.held(words):
        args = build_parser(words).parse_args(words)
        code = int(args.command(args))
    sys.stdout.flush()
    return code


def _check_command(word: str) -> None:
    """Refuse a word that is no command.

    Raises:
        UserError: it is none; other tools' words are answered with galamp's.
    """
    if word in COMMANDS or word.startswith("-"):
        return
    near = did_you_mean(word, COMMANDS, cutoff=NEAR)
    answer = command_elsewhere(word, COMMANDS) or f"unknown command {shown(word)}{near}"
    raise UserError(f"{answer}; see galamp help")


def build_parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the flags of the algorithm that `words` name.

    Args:
        words: the command line, if it is known: only its command then gets its args, and no
            other's module is imported.

    Raises:
        UserError: the algorithm is one of the user's, and cannot be used.
    """
    parser = Parser(prog="galamp", description=galamp.__doc__, formatter_class=CommandsFormatter)
    parser.add_argument("--version", action="version", version=f"galamp {galamp.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help)
        if words is not None and words[:1] != [name]:
            continue
        if command.trains:
            from galamp.cli.algorithm_flags import usual_config

            one.set_defaults(usual=usual_config(words or ()))
        if name == "completion":  # it completes what parsers know
            one.set_defaults(build_parser=build_parser)
        importlib.import_module(command.module).add_options(one)
        if command.trains:
            here = {*one.flags, *one.elsewhere, *COMMANDS}
            one.elsewhere = {**flags_elsewhere(here), **one.elsewhere}
    return parser
